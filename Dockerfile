# syntax=docker/dockerfile:1
# The image of the webhook and of the sidecars: one static program, certificate authorities, a user that is not root.
#
#     docker build --tag refrain:0.1.0 .
#
# image/build does the same without a container engine.

# Alpine's Rust makes static programs by itself. Keep its version that of rust-toolchain.toml.
FROM rust:1.95.0-alpine AS build
# The image has this toolchain already; rust-toolchain.toml would fetch what only a developer needs.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apk add --no-cache binutils ca-certificates musl-dev
WORKDIR /source
COPY . .
# What is compiled stays in caches between builds; the program is taken out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --locked --release --bin refrain \
    && image/rootfs target/release/refrain /rootfs

FROM scratch
COPY --from=build /rootfs /
USER 65532:65532
# Nothing is written: run it with a read-only root. 8001 serves gRPC unless `listen` says otherwise.
EXPOSE 8001
ENTRYPOINT ["/refrain"]
CMD ["proxy"]
