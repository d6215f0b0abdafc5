// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Decides between KVM and TCG. That `/dev/kvm` exists says little: on some hosts it opens and then
//! no guest ever runs. So KVM is taken only if a trial boot comes through in time.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::accel::{Accel, Choice};
use crate::guest;
use crate::output;
use crate::places::{read_trimmed, Kernel, Places};
use crate::vm::{self, Ending, Machine, Session};

/// How long a trial boot may take. KVM boots this kernel in two or three seconds.
const TRIAL: Duration = Duration::from_secs(20);

/// What to run `kernel` with. A trial's result holds until the host is booted again.
pub fn decide(choice: Choice, kernel: &Kernel, places: &Places) -> Result<Accel> {
    let (accel, why) = match choice {
        Choice::Fixed(accel) => (accel, "as asked"),
        Choice::FindOut if !Path::new("/dev/kvm").exists() => (Accel::Tcg, "there is no /dev/kvm"),
        Choice::FindOut if kvm_works(kernel, places)? => (Accel::Kvm, "a trial boot worked"),
        Choice::FindOut => (Accel::Tcg, "/dev/kvm is there, but does not run a guest"),
    };
    let name = accel.name().to_uppercase();
    let qemu = vm::qemu_version();
    output::step(&format!(
        "boot ({}) with {name} of QEMU {qemu}: {why}",
        kernel.config
    ));
    Ok(accel)
}

fn kvm_works(kernel: &Kernel, places: &Places) -> Result<bool> {
    let memory = places.cache.join("kvm-trial");
    let host_boot = read_trimmed(Path::new("/proc/sys/kernel/random/boot_id"))?;
    if let Ok(known) = fs::read_to_string(&memory) {
        if let Some(result) = known.trim().strip_prefix(&format!("{host_boot} ")) {
            return Ok(result == "works");
        }
    }
    let works = trial_boot(kernel, places)?;
    let result = if works { "works" } else { "fails" };
    fs::write(&memory, format!("{host_boot} {result}\n"))?;
    Ok(works)
}

fn trial_boot(kernel: &Kernel, places: &Places) -> Result<bool> {
    output::note(&format!(
        "trying KVM, for at most {} seconds",
        TRIAL.as_secs()
    ));
    let session = Session {
        name: "boot-kvm-trial".into(),
        script: guest::command_script(None, &["true".into()]),
        limit: TRIAL,
    };
    let ended = Machine::new(kernel.clone(), Accel::Kvm, 2).run(&session, places, &mut |_| {})?;
    Ok(ended.ending == Ending::Exited(0))
}
