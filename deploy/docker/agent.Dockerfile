# The agent. Build from the top of the repository:
#   docker build -f deploy/docker/agent.Dockerfile -t hookferry-agent .
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p relay-agent \
    && install -d -m 0700 -o 65532 -g 65532 /data

FROM debian:bookworm-slim
# The agent trusts the certificates of the system; the slim image has none.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/relay-agent /usr/bin/relay-agent
COPY --from=build --chown=65532:65532 /data /var/lib/hookferry-agent
USER 65532:65532
ENV HOOKFERRY_DATA_DIR=/var/lib/hookferry-agent
VOLUME /var/lib/hookferry-agent
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s CMD ["/usr/bin/relay-agent", "ready"]
ENTRYPOINT ["/usr/bin/relay-agent"]
CMD ["run"]
