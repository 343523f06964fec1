# tortie's one image: the agent, the BGP speaker, tortiectl, and the CNI plugin that an init container copies to the host.
#
#   docker build -t tortie .
#
# FROM, RUN, COPY, LABEL, ENV and CMD are all that is used here: tests/packaging/ follows these very
# steps in bare trees, without a container engine, and runs what comes out.

FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-venv
COPY pyproject.toml README.md LICENSE /src/
COPY charts/host/install /src/charts/host/install
COPY bgp /src/bgp
COPY controller /src/controller
COPY ipam /src/ipam
RUN /src/charts/host/install programs

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title=tortie
LABEL org.opencontainers.image.licenses=Apache-2.0
# iptables and nftables: the agent looks at the host's packet filters, and writes a table of its own.
RUN apt-get update \
    && apt-get install -y --no-install-recommends iptables libcap2-bin nftables python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=build /opt/tortie /opt/tortie
# The BGP speaker's user, by number where a pod names it. Port 179 is below 1024, and Kubernetes cannot hand a capability
# to a container that is not root; a copy of Python can have it of its own, in a container that allows it.
RUN groupadd --system --gid 10179 tortie-bgp \
    && useradd --system --uid 10179 --gid 10179 --home-dir /nonexistent --shell /usr/sbin/nologin tortie-bgp \
    && cp /usr/bin/python3 /opt/tortie/bin/python3-port179 \
    && chgrp tortie-bgp /opt/tortie/bin/python3-port179 \
    && chmod 750 /opt/tortie/bin/python3-port179 \
    && setcap cap_net_bind_service=ep /opt/tortie/bin/python3-port179 \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} +
ENV PATH=/opt/tortie/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV PYTHONDONTWRITEBYTECODE=1
CMD ["tortie-agent"]
