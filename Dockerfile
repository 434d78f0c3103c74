# docker build -t jaxdistill .       CPU
# docker build -t jaxdistill:cuda --build-arg EXTRAS=cuda,lander .
#                                    an NVIDIA GPU; run it with --gpus all
#
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/runs" \
#     jaxdistill distill --config=quickstart --workdir=quickstart
FROM python:3.11-slim-bookworm
ARG EXTRAS=lander
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/runs/.cache
WORKDIR /src
COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]" && rm -rf /src/*
WORKDIR /runs
# Who owns what is written, unless --user says otherwise.
USER 1000:1000
ENTRYPOINT ["jaxdistill"]
CMD ["doctor"]
