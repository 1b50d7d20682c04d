# Two images out of one tree, written without BuildKit's own syntax so that any engine builds them:
#   docker build --target serving -t keras-rehearsal-serving .   the embedded server, where tensorflow/serving stands
#   docker build --target flows -t keras-rehearsal .             the pipeline, and the Prefect and MLflow beside it
# BASE_IMAGE is any Debian or Ubuntu with Python 3.11 to 3.13; pin it by its digest for builds that can be repeated:
#   --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:...
# PIP_INDEX_URL, where given, is where wheels come from. VERSION and REVISION (the git commit) become labels.
ARG BASE_IMAGE=python:3.11-slim-bookworm


FROM ${BASE_IMAGE} AS runtime
ARG PIP_INDEX_URL
# Of the tensorflow package the server needs two libraries, without their symbol tables, and the protos.
# Everything comes from the lock, so that the served numbers are those of the training environment.
ARG PACKAGES="tensorflow tensorflow-serving-api numpy orjson grpcio protobuf uvicorn httptools click typing-extensions"
RUN command -v strip >/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends binutils)
COPY requirements.lock deploy/sbom.py /tmp/
RUN awk -v packages="$PACKAGES" \
        'BEGIN { n = split(packages, names, " "); for (i = 1; i <= n; i++) wanted[names[i]] = 1 } \
         /^[a-z0-9]/ { split($1, part, "=="); keep = part[1] in wanted } keep' \
        /tmp/requirements.lock > /tmp/serving.lock \
    && python3 -m venv /opt/serving \
    && /opt/serving/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
        -r /tmp/serving.lock \
    && /opt/serving/bin/pip uninstall --yes pip setuptools \
    && /opt/serving/bin/python /tmp/sbom.py /tmp/requirements.lock >/opt/serving/sbom.cdx.json \
    && cd /opt/serving/lib/python3.*/site-packages/tensorflow \
    && find . -type f ! -name '*_pb2*.py*' ! -path ./__init__.py ! -path './core/*/__init__.py' \
        ! -name libtensorflow_cc.so.2 ! -name libtensorflow_framework.so.2 -delete \
    && find . -type d -empty -delete \
    && chmod u+w libtensorflow_* && strip libtensorflow_cc.so.2 libtensorflow_framework.so.2


FROM ${BASE_IMAGE} AS serving
COPY --from=runtime /opt/serving /opt/serving
WORKDIR /app
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="keras-rehearsal-serving" \
      org.opencontainers.image.description="TensorFlow Serving's contract for rehearsals, without TensorFlow Serving." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
COPY tasks/__init__.py tasks/
COPY tasks/model_server tasks/model_server
RUN /opt/serving/bin/python -m compileall -q tasks \
    && /opt/serving/bin/python -c "import tasks.model_server.__main__, tasks.model_server.ports, tasks.model_server.grpc_service"
# The contract of tensorflow/serving's image; arguments of `docker run` become further flags of the server.
ENV MODEL_NAME=model MODEL_BASE_PATH=/models PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8500 8501
USER 65534:65534
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/opt/serving/bin/python", "-c", \
    "import os, sys, urllib.request as r; \
url = 'http://127.0.0.1:8501/v1/models/' + os.environ['MODEL_NAME']; \
sys.exit(b'AVAILABLE' not in r.urlopen(url, timeout=4).read())"]
ENTRYPOINT ["/bin/sh", "-c", "exec /opt/serving/bin/python -m tasks.model_server \
--port=8500 --rest_api_port=8501 --model_name=\"$MODEL_NAME\" --model_base_path=\"$MODEL_BASE_PATH/$MODEL_NAME\" \"$@\"", "serving"]


FROM ${BASE_IMAGE} AS flows
ARG PIP_INDEX_URL
# requirements-s3.lock has the extra for models_root on s3:// as well.
ARG LOCK=requirements.lock
COPY ${LOCK} deploy/sbom.py /tmp/
# Which packages are in the image is written into it, as /opt/flows/sbom.cdx.json.
RUN python3 -m venv /opt/flows \
    && /opt/flows/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/${LOCK} \
    && /opt/flows/bin/python /tmp/sbom.py /tmp/${LOCK} >/opt/flows/sbom.cdx.json \
    && printf '#!/opt/flows/bin/python -P\nfrom flows.main import main\n\nraise SystemExit(main())\n' \
        >/opt/flows/bin/keras-rehearsal \
    && chmod +x /opt/flows/bin/keras-rehearsal
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="keras-rehearsal" \
      org.opencontainers.image.description="Judge a Keras model in a real model server before it goes live." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
WORKDIR /app
COPY flows flows
COPY tasks tasks
COPY configs configs
# What a run writes (candidates, mlflow.db) and your own configuration and code live in a volume at /rehearsal. The
# stack has two more: /models, which production watches, and /exchange, which is shared with an attached server. The
# link is where a deployment of prefect.yaml looks for its flow.
RUN useradd --create-home --uid 1000 rehearsal && mkdir -p /rehearsal /models /exchange \
    && ln -s /app/flows /rehearsal/flows \
    && /opt/flows/bin/python -m compileall -q flows tasks configs
COPY configs/*.yaml configs/*.csv /rehearsal/configs/
RUN chown --recursive rehearsal /rehearsal /models /exchange
# Any user may run it (`--user`), so that the home is a place that everybody can write.
ENV PATH=/opt/flows/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 HOME=/tmp
USER rehearsal
WORKDIR /rehearsal
VOLUME /rehearsal
ENTRYPOINT ["python", "-m"]
CMD ["flows.train_and_serve", "--help"]
