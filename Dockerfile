# One image for every role of today; the command says which one runs:
#   docker build --target worker -t taskyard:0.1.0 .
#   docker run --rm taskyard:0.1.0 worker MODULE
# A role that needs other members gets a stage `NAME-env` and a stage `NAME` beside those of `worker`.

# The Python and the Debian that the tests run on.
ARG PYTHON=3.11-slim-bookworm

# ── wheels: each member, built without fetching a build back end of its own ──────────────────
FROM python:${PYTHON} AS wheels
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install -c constraints.txt hatchling
COPY shared ./shared
COPY producer ./producer
COPY broker_setup ./broker_setup
COPY workers ./workers
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels \
    ./shared ./producer ./broker_setup ./workers

# ── worker-env: a folder with the members and their pinned dependencies, and nothing else ────
FROM wheels AS worker-env
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/taskyard \
    && python -m pip --python /opt/taskyard/bin/python install -c constraints.txt \
        "$(ls /wheels/taskyard_shared-*.whl)[encryption]" \
        /wheels/taskyard_producer-*.whl \
        /wheels/taskyard_broker_setup-*.whl \
        "$(ls /wheels/taskyard_workers-*.whl)[fast,http]"

# ── worker: what runs ────────────────────────────────────────────────────────────────────────
FROM python:${PYTHON} AS worker
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="taskyard" \
      org.opencontainers.image.description="Workers and commands of Taskyard" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Nothing here is built any more; pip stays, for images that are made from this one.
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel \
    && groupadd --gid 10001 taskyard \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/taskyard \
        --shell /usr/sbin/nologin taskyard \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/taskyard
COPY --from=worker-env /opt/taskyard /opt/taskyard
# Probes and scrapes come from outside the container; the state is where a volume can be mounted.
ENV PATH=/opt/taskyard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TASKYARD_METRICS_HOST=0.0.0.0 \
    TASKYARD_METRICS_PORT=9464 \
    TASKYARD_STATE_DIR=/var/lib/taskyard
# Your modules go here: the current folder is importable.
WORKDIR /app
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
# -I: neither PYTHONPATH nor a module of yours named http can mislead it; no proxy is asked either.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['TASKYARD_METRICS_PORT']), timeout=3); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["taskyard"]
CMD ["--help"]
