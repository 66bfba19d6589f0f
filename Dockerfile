# One image for the code server, for Dagster's webserver and daemon (deploy/compose.yaml), and for runs.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY metronome_pipeline metronome_pipeline
# More libraries of Dagster's, for where it shall start runs: dagster-k8s==… for Kubernetes. See docs/deployment.md.
ARG LIBRARIES=""
# The lock constrains and does not list, so that what only the tests need stays out.
# The bytecode stays: who runs this may not write it, and each run and health check would compile everything again.
# hadolint ignore=SC2086
RUN pip install --constraint requirements.lock ".[telemetry]" ${LIBRARIES} \
 && find /opt/venv -type d -name tests -prune -exec rm -rf {} + \
 && pip uninstall --yes pip

FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 dagster \
 && useradd --uid 10001 --gid dagster --no-create-home --home-dir /opt/dagster --shell /usr/sbin/nologin dagster \
 && install --directory --owner=dagster --group=dagster /opt/dagster /opt/dagster/storage
COPY --from=build /opt/venv /opt/venv
COPY --chown=dagster:dagster dagster.yaml deploy/workspace.yaml /opt/dagster/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/dagster
WORKDIR /opt/dagster
# By number: Kubernetes can only then see that it is not root.
USER 10001:10001
EXPOSE 4000
HEALTHCHECK --interval=30s --timeout=15s --start-period=90s --retries=3 \
    CMD ["dagster", "api", "grpc-health-check", "--port", "4000"]
# No ENTRYPOINT: Kubernetes and Docker start runs by giving the whole command.
CMD ["dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "4000", "--module-name", "metronome_pipeline.definitions"]
