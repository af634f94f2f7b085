# The steps of .ci/run by name, and what a day's work needs. `just` lists them.

_default:
    @just --list

# Everything that must hold on every commit
ci:
    .ci/run

fmt:
    .ci/run fmt

# All tests on the best instruction set of this machine
test:
    .ci/run test

# What computes, on each of the other instruction sets
isa:
    .ci/run isa

# A real model against llama.cpp's golden, where the package index has it
real:
    .ci/run real

# Lints of all targets
clippy:
    .ci/run clippy

# Lints, kernels, the driver's stand-in and the kernels' budget with CUDA; needs nvcc, no GPU
cuda:
    .ci/run cuda

# The kernels' known answers on the emulated device, checked for races
races:
    .ci/run races

doc:
    .ci/run doc

# Licences, sources and banned crates; needs `cargo install cargo-deny --locked`
deny:
    cargo deny check bans licenses sources

build:
    cargo build --release

# All microbenchmarks, or one: engine, rollout, text, mask, ledger, trip, cross_read, judging
bench *NAME:
    cargo bench --features testing {{ if NAME == "" { "" } else { "--bench " + NAME } }}

# What the kernels' machine code costs on each card, against its budget; needs nvcc, no GPU
card-budget *ARGS:
    scripts/card_budget {{ARGS}}

# What serin's speed on each card should be
card-model:
    scripts/card_model

# A whole rollout on the demo models
demo *ARGS:
    cargo demo {{ARGS}}

# Promises to stable, against a real server on an idle machine
verify *CASES:
    cargo build --release
    scripts/verify/run {{CASES}}

# A pack of tests and benches to run on a machine with a GPU
gpu-pack FOLDER:
    scripts/gpu_check pack {{FOLDER}}
