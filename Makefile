# SPDX-License-Identifier: GPL-2.0
#
# One command for each thing one wants to do; `make help` lists them. What they do is in scripts/ (from a bare machine
# to a built kernel) and in selftests/rust_tlb/runner (boot, tests, results).

V ?= 0

export KSRC ACCEL SMP TEST V DURATION SEED QUICK MUTANT

RUNNER := scripts/runner.sh

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help tools source overlay kernel module run test model bench events hooks trace perf bpftrace kcsan litmus mutants frames binder binder-tests peers series stress shell lint setup-matrix clean distclean

ifeq ($(V),0)
Q := @
endif

help:
	@echo 'make run       from a bare machine to the main job: build, boot, and the table of strategies'
	@echo 'make test      from a bare machine to all tests; ends in N passed, N failed, N skipped'
	@echo 'make bench     all strategies side by side: results.json, plots and a page in build/bench/; QUICK=1: in 3 minutes'
	@echo 'make events    what the trace events cost: instructions with them, and without (a kernel of its own)'
	@echo 'make hooks     what the ring of flushes costs those who have none: instructions of the kernel'"'"'s own paths'
	@echo 'make trace     what a flush is made of, by ftrace: one batch on all CPUs, and totals by strategy; build/trace/'
	@echo 'make perf      the same by perf: events counted, and how long each flush took whom; build/trace/'
	@echo 'make bpftrace  questions to the same events by programs of one line; build/trace/'
	@echo 'make model     all that can happen on a machine in small steps: larger ones than in make test, and each control shown'
	@echo 'make kcsan     the tests that run in the VM, on a kernel that looks for data races in C'
	@echo 'make litmus    the memory orderings that the project relies on, checked by herd7'
	@echo 'make mutants   break one rule after the other, and see that the tests notice; MUTANT=text: those that contain it'
	@echo 'make frames    the largest stack frames of the project, in objects built for 8192 CPUs'
	@echo 'make binder    Rust Binder: one shootdown for each scan of its shrinker, before and after'
	@echo 'make binder-tests  the kernel'"'"'s own tests of Binder, with our patch and without (four more kernels are built)'
	@echo 'make peers     the kernel'"'"'s own tests of mm, and those in EXTRA=folder: on three kernels, which have to say the same'
	@echo 'make series    all of it as mails for git am, checked; CHECK=1: and built after each of them'
	@echo 'make stress    use the device at random for DURATION=600 seconds; SEED= replays the choices of an earlier run'
	@echo 'make shell     a shell in the VM, as root, with the module loaded; perf, trace-cmd and bpftrace at hand'
	@echo 'make lint      rustfmt, clippy, rustdoc, checkpatch'
	@echo
	@echo 'make tools     find the tools; what is missing is installed, or for others than root, unpacked into the cache'
	@echo 'make source    fetch the kernel, or copy KSRC, into the cache'
	@echo 'make overlay   put this project onto the copy; with KSRC=, onto that tree itself'
	@echo 'make kernel    build the patched kernel: CONFIG=run (default; of make shell: bench), bench, test, kcsan,'
	@echo '               bench-noevents or bench-noring'
	@echo 'make module    build rust_tlb.ko alone: KDIR=a built, patched kernel (default: ours, CONFIG=)'
	@echo 'make setup-matrix  the set-up on fresh machines, each a Debian in a folder (root, debootstrap, an hour and more)'
	@echo 'make clean     remove build/'
	@echo 'make distclean remove build/ and the cache ($${XDG_CACHE_HOME:-~/.cache}/rust-tlb)'
	@echo
	@echo 'KSRC=path      a Linux 7.3 tree of your own; only `make overlay` changes it'
	@echo 'TEST=text      run only those tests whose line in selftests/rust_tlb/tests.list contains it'
	@echo 'ACCEL=kvm|tcg  how to run the VM (found out by trying)      SMP=n  its CPUs (4; bench: 8)      V=1  show everything'

# Which kernel, unless one is named. That for the main job is of no use to who looks into it.
kernel module: CONFIG ?= run
shell: CONFIG ?= bench

# What a target needs beside what builds and boots.
test binder kcsan mutants trace perf bpftrace shell: TOOLS_FOR = trace
lint: TOOLS_FOR = lint

kernel: export STEPS = 4
run: export STEPS = 7
test: export STEPS = 7
bench: export STEPS = 9
events: export STEPS = 11
hooks: export STEPS = 12
trace: export STEPS = 7
perf: export STEPS = 7
bpftrace: export STEPS = 7
kcsan: export STEPS = 7
model: export STEPS = 2
litmus: export STEPS = 3
mutants: export STEPS = 2
frames: export STEPS = 5
binder: export STEPS = 7
binder-tests: export STEPS = 6
peers: export STEPS = 6
series: export STEPS = 4
stress: export STEPS = 7
shell: export STEPS = 6
lint: export STEPS = 8

tools:
	$(Q)scripts/tools.sh $(TOOLS_FOR)

source: tools
	$(Q)scripts/kernel-source.sh

ifdef KSRC
overlay:
	$(Q)STEPS=3 scripts/overlay.sh '$(KSRC)'
else
overlay: source
	$(Q)STEPS=3 scripts/overlay.sh
endif

kernel: tools
	$(Q)scripts/kernel-build.sh $(CONFIG)

module: tools
	$(Q)scripts/module.sh $(CONFIG) $(KDIR)

run: tools
	$(Q)scripts/kernel-build.sh run
	$(Q)$(RUNNER) run

bench: tools
	$(Q)scripts/kernel-build.sh bench
	$(Q)$(RUNNER) bench

events: tools
	$(Q)scripts/kernel-build.sh bench-noevents
	$(Q)scripts/kernel-build.sh bench
	$(Q)$(RUNNER) events

hooks: tools
	$(Q)scripts/kernel-build.sh bench-noring
	$(Q)scripts/kernel-build.sh bench
	$(Q)$(RUNNER) hooks

trace: tools
	$(Q)scripts/kernel-build.sh bench
	$(Q)$(RUNNER) trace

perf: tools
	$(Q)scripts/kernel-build.sh bench
	$(Q)$(RUNNER) perf

bpftrace: tools
	$(Q)scripts/kernel-build.sh bench
	$(Q)$(RUNNER) bpftrace

test: tools
	$(Q)scripts/kernel-build.sh test
	$(Q)$(RUNNER) test

model: tools
	$(Q)scripts/model.sh

kcsan: tools
	$(Q)scripts/kernel-build.sh kcsan
	$(Q)$(RUNNER) test --config kcsan

peers: tools
	$(Q)EXTRA='$(EXTRA)' scripts/peers.sh

series: tools
	$(Q)CHECK='$(CHECK)' scripts/series.sh

litmus: source
	$(Q)scripts/litmus.sh

mutants: tools
	$(Q)scripts/mutants.sh "$(MUTANT)"

frames: tools
	$(Q)scripts/frames.sh

binder: export TEST = vm binder
binder: tools
	$(Q)scripts/kernel-build.sh test
	$(Q)$(RUNNER) test

binder-tests: tools
	$(Q)scripts/binder-tests.sh

stress: tools
	$(Q)scripts/kernel-build.sh test
	$(Q)$(RUNNER) stress

shell: tools
	$(Q)scripts/kernel-build.sh $(CONFIG)
	$(Q)$(RUNNER) shell --config $(CONFIG)

lint: tools
	$(Q)scripts/lint.sh

setup-matrix:
	$(Q)scripts/setup-matrix.sh $(MACHINES)

clean:
	$(Q)rm -rf build

distclean: clean
	$(Q)rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/rust-tlb"
