# Two images: train runs the whole pipeline, serve labels clips and has no torch. Each installs as the Makefile does.
#
#   docker build --target train -t cpd-train .
#   mkdir -p runs
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD/runs:/app/runs" cpd-train run pipeline.yaml --device cuda
#
#   docker build --target serve -t cpd-serve .
#   docker run --rm -v "$PWD:/work" -w /work cpd-serve --engine student.onnx --video clip.mp4

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
# video is what NVDEC needs of the driver; without a GPU these two say nothing
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 cpd

FROM base AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make=4.* \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY . .

FROM build AS train
# cuda by default; --build-arg EXTRA=cpu for a machine without a GPU
ARG EXTRA=cuda
RUN make install-train EXTRA=${EXTRA} && install --directory --owner=cpd /app/runs
USER 1000
ENTRYPOINT ["/app/.venv/bin/cpd-pipeline"]
CMD ["--help"]

FROM build AS serve-build
ARG SERVE=serve
RUN make install-serve SERVE=${SERVE} VENV=/opt/cpd

FROM base AS serve
COPY --from=serve-build /opt/cpd /opt/cpd
USER 1000
WORKDIR /home/cpd
ENTRYPOINT ["/opt/cpd/bin/cpd-serve"]
CMD ["--help"]
