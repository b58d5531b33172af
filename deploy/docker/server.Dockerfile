# The relay. Build from the top of the repository:
#   docker build -f deploy/docker/server.Dockerfile -t hookferry-server .
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p relay-server \
    && install -d -m 0700 -o 65532 -g 65532 /data

FROM debian:bookworm-slim
COPY --from=build /src/target/release/relay-server /usr/bin/relay-server
COPY --from=build --chown=65532:65532 /data /var/lib/hookferry
USER 65532:65532
VOLUME /var/lib/hookferry
EXPOSE 8080 9090
# The admin listener stays on the container's loopback unless HOOKFERRY_ADMIN_LISTEN says otherwise.
ENTRYPOINT ["/usr/bin/relay-server"]
CMD ["serve"]
