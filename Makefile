# Each target works on a fresh machine; `setup` installs what is missing and is quick where nothing is.
CARGO ?= cargo

.PHONY: help build test demo compare bench layouts agreement predictions validate fmt lint setup clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## what a build needs: a C linker and Rust
	@bash scripts/setup.sh

build: setup ## target/release/partita
	$(CARGO) build --release --locked

# One profile for everything: the property tests are heavy, and a test's build is the build of the program.
test: build ## every test, and that the planner builds by itself
	@bash scripts/check_planner.sh
	$(CARGO) test --release --locked --workspace

demo: build ## compile a small gpt for 4 ranks and train it on this project's own source
	@bash scripts/demo.sh

compare: build ## losses, gradients and step times beside PyTorch on this machine (installs PyTorch into target/)
	@bash compare/run.sh

bench: build ## step times of gpt under several layouts
	@bash scripts/bench.sh

layouts: build ## the public layout problems within their limits (11 minutes), into docs/measured.md
	@python3 scripts/layout_bench.py

validate: setup ## step time and memory beside published runs, into docs/validation
	$(CARGO) run --release --locked --example validate

agreement: build ## 20 steps of the models under many plans, losses beside those of one rank
	@bash scripts/agreement.sh

predictions: build ## steps and memory that are expected beside what runs take, by a profile of this machine
	@bash scripts/predict.sh

fmt: ## format every file
	$(CARGO) fmt --all

lint: ## formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

clean: ## remove everything that was built
	$(CARGO) clean
