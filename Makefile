# How to build, try and check Outbox for IntelMQ. `make` lists the targets; what they do is in tests/ and in cargo.

# rustup puts it here; a shell that was open before does not know.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help build demo demo-start demo-stop check fmt clippy doc shellcheck units test model soak torture powerloss fuzz long deny

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

build: ## build the two programs into target/release
	cargo build --release --locked -p outbox-generator -p outbox-deliverer

demo: ## sample events become signed mails, and are relayed; all in target/demo
	@tests/demo/run.sh

demo-start: ## start the servers of the last demo, to go on by hand
	@tests/demo/servers.sh start

demo-stop: ## stop them
	@tests/demo/servers.sh stop

check: ## install what the tests need, and run all there is; CI runs this
	@tests/install.sh check
	@$(MAKE) --no-print-directory fmt clippy doc shellcheck units deny test

# One after the other, also with `make -j`: cargo lets only one build at a time.
.NOTPARALLEL:

fmt: ## is the code formatted?
	cargo fmt --all --check

clippy: ## lints; a warning is an error
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc: ## does the documentation of the code build?
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

shellcheck: ## lints for the shell scripts
	shellcheck .ci/run tests/install.sh tests/units.sh tests/demo/*.sh tests/fuzz/*.sh

units: ## does systemd take the units, and is their sandbox tight?
	@tests/units.sh

test: ## all tests
	cargo test --workspace --locked --no-fail-fast

# How long the next three take.
MINUTES ?= 4

model: ## random sequences of all that can happen against a model, for MINUTES=4
	MINUTES=$(MINUTES) cargo test -p outbox-tests --locked --test model -- --ignored --nocapture

soak: ## both programs under load, with kills and outages, for MINUTES=4
	MINUTES=$(MINUTES) cargo test -p outbox-tests --locked --test soak -- --ignored --nocapture

torture: ## both programs killed at every system call, and with each failing once: half an hour
	cargo test -p outbox-tests --locked --test torture -- --ignored --nocapture

fuzz: ## random input for whatever reads or writes something, MINUTES=4 for each (tests/fuzz)
	@tests/fuzz/run.sh $(MINUTES)

powerloss: ## the power goes at every moment of recorded runs, and the programs go on: some minutes
	cargo test -p outbox-tests --locked --test power -- --ignored --nocapture

long: ## what else takes minutes: 40,000 mails at once, odd files before every command, a frozen database, …
	cargo test -p outbox-tests --locked --no-fail-fast --test odd_systems --test odd_files --test hostile --test database_faults \
		-- --ignored --nocapture

deny: ## licences and sources of what we build on, if cargo-deny is there
	@if cargo deny --version >/dev/null 2>&1; then \
		cargo deny --locked check licenses bans sources; \
	else \
		echo "cargo-deny is not installed: licences are not checked"; \
	fi
