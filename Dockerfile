# One static binary in an empty image: docker build -t longrun-agent .
#
# Any image with cargo and a C compiler whose default target is musl serves as
# BUILDER; .ci/builder-image makes one where none can be pulled. What such an
# image needs (target, linker, flags) is in its environment, never in here;
# flags in RUSTFLAGS, which are added to.
ARG BUILDER=rust:1-alpine

FROM ${BUILDER} AS build
# ring compiles C, and Alpine's image of Rust may come without libc's headers.
RUN if command -v apk; then apk add --no-cache musl-dev; fi
WORKDIR /src
COPY . .
# Not cargo build: install puts the binary in one place, whatever the target.
# No tables for unwinding, 120 KB to pull: a panic aborts, and
# in a stripped binary a backtrace has no names. Where it was is told as ever.
RUN RUSTFLAGS="${RUSTFLAGS-} -C force-unwind-tables=no" \
    cargo install --path . --root /out --locked --no-track

FROM scratch
LABEL org.opencontainers.image.title="longrun-agent" \
      org.opencontainers.image.description="Runs one container job on a Compute Engine VM and reports its end" \
      org.opencontainers.image.source="https://github.com/longrun/longrun-agent" \
      org.opencontainers.image.licenses="Apache-2.0"
# The only file: Mozilla's CA roots are compiled in.
COPY --from=build /out/bin/longrun-agent /longrun-agent
# Root on purpose: whoever may write to docker.sock is root of the VM anyway,
# and the socket's group has another number on every host.
ENTRYPOINT ["/longrun-agent"]
