# What people and CI call. Each target is a few words around cargo; `make help` lists them.
#
# Build output goes outside the clone, so that a clone stays small and a second one need not build anew.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/everring/target
EVERRING := $(CARGO_TARGET_DIR)/release/everring
BENCH    := --manifest-path bench/Cargo.toml

# How long the demo runs; its seed (drawn when empty); where the verdict's JSON goes (printed when empty).
FOR    ?= 60s
SEED   ?=
REPORT ?=
# A recorded trace of block requests for `make replay`, as CloudPhysics published them.
TRACE  ?=
# How many simulated schedules.
SEEDS  ?= 10000
# QUICK=1 runs the short form of the figures, with the same names.
QUICK  ?=
# Only these parts of the figures, with commas between. Of discovery: failover, watch, clients, all-down. Of the ring:
# balance, model, hops, churn, million, schedules, planted, changes.
ONLY   ?=
# Where the figures' work files go, a live fleet's data too; without it, beside the figures.
WORK   ?=

.DEFAULT_GOAL := help
.PHONY: help build demo replay test manifests images k8s-test figures-kubernetes verify fmt clippy tidy doc deny fix sim figures-fleet
.PHONY: nightly figures-ring figures-ring-changes figures-consistency figures-discovery lookups soak
.PHONY: bench-peers bench-transport bench-log bench-checker measure

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | sort | expand -t 18

build: ## the program, optimised
	cargo build --release --locked -p everring

demo: build ## a fleet under a Chaos Monkey, and a verdict (FOR=60s SEED= REPORT=file)
	$(EVERRING) up --chaos --for $(FOR) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

replay: build ## a recorded trace (TRACE=file.csv.gz) played while the monkey kills, and a verdict (SEED= REPORT=file)
	$(EVERRING) up --replay $(TRACE) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

test: manifests ## all tests
	cargo test --workspace --locked --no-fail-fast

manifests: ## deploy/k8s against the schemas of Kubernetes and a policy linter
	tests/kubernetes/validate.sh

images: ## the image of all roles, without a container engine
	deploy/image/build.sh

k8s-test: ## the fleet on a real Kubernetes: KUBECONFIG's, or one put up for the test (QUICK=1)
	tests/kubernetes/run.sh $(if $(QUICK),--quick)

figures-kubernetes: ## the figures of the fleet on Kubernetes, the last line as JSON (QUICK=1)
	tests/kubernetes/run.sh --figures $(CARGO_TARGET_DIR)/figures/kubernetes.json $(if $(QUICK),--quick)

verify: fmt clippy tidy doc ## everything but the tests that must hold before a commit; changes nothing

fmt: ## the code is formatted
	cargo fmt --all --check
	cargo fmt $(BENCH) --all --check

clippy: ## no lint complains
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p everring --features kubernetes --locked -- -D warnings

tidy: ## the repository's own rules, the lock file, the licences
	cargo run --locked -q -p xtask -- tidy
	cargo run --locked -q -p xtask -- deps

doc: ## the documentation builds without a warning
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

deny: ## known advisories, licences and bans (needs cargo-deny and the network)
	cargo deny check

fix: ## formats, and takes clippy's own corrections
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all && cargo fmt $(BENCH) --all

measure: ## how large, how commented and how tested each crate is
	cargo run --locked -q -p xtask -- measure

sim: build ## simulated fleets, one a seed (SEEDS=10000)
	$(EVERRING) sim run --seeds $(SEEDS)

# Without FOR, which has a default here for the demo, it would end after a minute: so it has one of its own.
nightly: FOR := $(if $(filter command line environment,$(origin FOR)),$(FOR),)
nightly: build ## simulated schedules of all contracts, from fresh seeds, until stopped (FOR=8h)
	EVERRING_BIN=$(EVERRING) bench/nightly.sh $(FOR)

figures-fleet: build ## the figures of the fleet, the last line as JSON (QUICK=1)
	EVERRING_BIN=$(EVERRING) bench/figures-fleet.sh $(if $(QUICK),--quick)

FIGURES := $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(WORK),--work $(WORK))
RING_CHANGES := $(CARGO_TARGET_DIR)/figures/ring-changes.json

figures-ring: build $(if $(ONLY),$(if $(findstring changes,$(ONLY)),$(RING_CHANGES)),$(RING_CHANGES)) ## the figures of the ring, the last line as JSON (QUICK=1 ONLY=balance,model,...)
	mkdir -p $(CARGO_TARGET_DIR)/figures
	cargo run --release --locked $(BENCH) -p figures --bin ring -- --everring $(EVERRING) \
		--out $(CARGO_TARGET_DIR)/figures/ring.json $(FIGURES)

# Measured once; `make figures-ring-changes` measures it anew. What it misses is named by the figures that take it over.
$(RING_CHANGES):
	-$(MAKE) figures-ring-changes QUICK=$(QUICK)

# Rows that take long are kept, for this very commit: a run that was ended goes on where it was.
lookups: build ## docs/lookups.md and its plot, measured anew
	mkdir -p $(CARGO_TARGET_DIR)/figures
	$(EVERRING) sim lookups --write docs --rows $(CARGO_TARGET_DIR)/figures/lookups-$(shell git rev-parse --short HEAD).jsonl

figures-ring-changes: build ## the figures of joins, leaves and restarts, the last line as JSON (QUICK=1)
	mkdir -p $(CARGO_TARGET_DIR)/figures
	cargo run --release --locked $(BENCH) -p figures --bin ring-changes -- --everring $(EVERRING) \
		--out $(CARGO_TARGET_DIR)/figures/ring-changes.json $(if $(QUICK),--quick)

figures-consistency: build ## the figures of the consistency levels, the last line as JSON (QUICK=1 ONLY=speed,costs,... WORK=folder)
	mkdir -p $(CARGO_TARGET_DIR)/figures
	cargo run --release --locked $(BENCH) -p figures --bin consistency -- --everring $(EVERRING) \
		--out $(CARGO_TARGET_DIR)/figures/consistency.json $(FIGURES)

figures-discovery: build ## discovery beside Consul and etcd, the last line as JSON (QUICK=1 ONLY=part,part)
	mkdir -p $(CARGO_TARGET_DIR)/figures
	cargo run --release --locked $(BENCH) -p figures-discovery -- --everring $(EVERRING) $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) \
		--out $(CARGO_TARGET_DIR)/figures/discovery.json \
		--consul "$$(tests/tools/build.sh consul)" --etcd "$$(tests/tools/etcd/build.sh)"

soak: FOR := 1h
soak: demo ## an hour of the demo

bench-peers: build ## beside etcd and a bare HTTP handler, in turns (QUICK=1)
	$(if $(QUICK),QUICK=1) EVERRING_BIN=$(EVERRING) bench/peers.sh

bench-transport: ## framed TCP beside HTTP/1.1, between gateway and storage node
	cargo run --release --locked -p runtime --example transport_bench

bench-log: ## the log on this disk, by batch size
	cargo run --release --locked -p store --example log_bench -- $(CARGO_TARGET_DIR)

bench-checker: ## the checker on histories of 100,000, 10^6 and 10^7 operations: seconds, and the peak of its memory
	cargo build --release --locked -p checker --example yardstick
	for operations in 100000 1000000 10000000; do $(CARGO_TARGET_DIR)/release/examples/yardstick check $$operations || exit 1; done
