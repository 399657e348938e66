# Short names for the scripts under tests/, which hold the logic. Arguments: make test ARGS="-E 'test(sizes)'",
# make bench ARGS="--rounds 1000 --write".
.DEFAULT_GOAL := help
.PHONY: help setup run test test-podman test-htcondor test-apptainer test-pilots attacks test-vm test-all suspend-crowd bench bench-trace bench-large fuzz miri lint deny image install clean
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## install what the other targets need (Debian packages, through sudo when not root)
	@bash tests/setup.sh

run: setup ## build, run a payload in the image as an ordinary user, show its records
	@bash tests/run.sh

test: setup ## every test that needs no virtual machine
	@bash tests/test.sh $(ARGS)

test-podman: setup ## the tests inside rootless podman, unmasked and with its defaults (ARGS="--part ci": the most telling ones)
	@bash tests/beds/podman.sh $(ARGS)

test-apptainer: setup ## bailey called as apptainer beside Apptainer itself, case by case, as root (ARGS="--show CASE": every fact of one)
	@bash tests/beds/apptainer-reference.sh $(ARGS)

test-htcondor: setup ## a pool of HTCondor whose container runtime is bailey, as an ordinary user and as root (as root; 130 MB of packages once)
	@bash tests/beds/htcondor.sh $(ARGS)

test-pilots: setup ## DIRAC 9 and the PanDA pilot 3 from PyPI start payloads through our apptainer (ARGS="dirac": only that)
	@bash tests/beds/pilots.sh $(ARGS)

attacks: setup ## the attack suite under bailey and its peers (BAILEY_PEERS_ROOT): writes docs/threat-model.md's table
	@bash tests/attacks/table.sh $(ARGS)

test-vm: setup ## every test on Debian's kernels 5.10, 6.1, 6.12 and 7, in QEMU, as root (ARGS="--only 6.12 --part ci": one, the main tests)
	@bash tests/beds/kernels.sh $(ARGS)

test-all: setup ## make test, a short benchmark and the test beds of their own
	@bash tests/all.sh

suspend-crowd: setup ## a changed list of ten thousand bans against five hundred payloads that run
	@BAILEY_CROWD=500 bash tests/test.sh --cargo-profile release -E 'binary(suspend_crowd)' --no-capture

bench: setup ## bailey, bubblewrap and a floor program side by side, then bench-trace (--write: to docs/; --only LABEL: those)
	@bash tests/bench.sh $(ARGS)
	@$(if $(findstring --only,$(ARGS)),:,bash tests/bench-trace.sh $(filter --write,$(ARGS)))

bench-trace: setup ## questions to a large log, and its verification (ARGS="--records 10000000": ten million records)
	@bash tests/bench-trace.sh $(ARGS)

bench-large: setup ## the same with ten million records (45 GB of disk, an hour)
	@bash tests/bench-trace.sh --records 10000000 $(ARGS)

fuzz: ## every parser, with coverage, a minute each (ARGS="SECONDS TARGET"; needs nightly and cargo-fuzz, ARGS=--short neither)
	@bash tests/fuzz.sh $(ARGS)

miri: ## pointers of src/sys in an interpreter that sees every wrong one (needs nightly with Miri)
	@bash tests/miri.sh

lint: setup ## rustfmt, clippy with warnings as errors, shellcheck, manual pages, systemd units
	@bash tests/lint.sh

deny: ## licences, sources, unwanted crates; advisories too where cargo-deny and a network are
	@bash tests/deny.sh

image: setup ## make the image (a Debian root directory) when it is missing
	@bash tests/image.sh

install: ## install what cargo build --release --locked built (DESTDIR=DIR: below DIR, for a package)
	@DESTDIR="$(DESTDIR)" bash packaging/install.sh

clean: ## remove the build and the tests' folder (images, copies)
	@bash tests/clean.sh
