# One line each; .ci/run runs the same.

fmt:
    cargo fmt

lint:
    cargo clippy --locked --all-targets -- -D warnings

test *ARGS:
    tests/run {{ARGS}}

bench:
    cargo bench --bench judgment && cargo bench --bench predict

demo:
    cargo run --release -- demo
