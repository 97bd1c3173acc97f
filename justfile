# One line each. What a change must pass is .ci/run: formatting, lints, documentation, all tests and the guard.

fmt:
    cargo fmt

lint:
    cargo clippy --locked --all-targets -- -D warnings

test *ARGS:
    tests/run {{ARGS}}

bench *ARGS:
    benches/run {{ARGS}}

guard:
    benches/run guard

demo:
    cargo run --release -- demo
