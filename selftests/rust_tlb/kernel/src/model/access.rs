// SPDX-License-Identifier: GPL-2.0

//! What a CPU does to read or to write: through its TLB, by a walk, or with the help of a fault.

use super::{
    ids::{Cpu, MmId, Vpn},
    memory::Frame,
    page_table::Pte,
    world::World,
};

impl World {
    /// Reads a page. Returns its frame, or [`None`] if the CPU has to wait in a fault.
    pub(super) fn read(&mut self, cpu: Cpu, vpn: Vpn) -> Option<Frame> {
        let mm = self.resume(cpu);
        loop {
            if let Some(pte) = self.translate_to_read(cpu, mm, vpn) {
                return Some(pte.frame);
            }
            self.fault(cpu, mm, vpn, false)?;
        }
    }

    /// Reads a page that nothing is in the way of.
    pub(super) fn touch(&mut self, cpu: Cpu, vpn: Vpn) -> Frame {
        self.read(cpu, vpn).expect("no fault waits")
    }

    /// Writes to a page, unless the CPU has to wait in a fault. Then there was no write.
    pub(super) fn write(&mut self, cpu: Cpu, vpn: Vpn) -> Option<Frame> {
        let mm = self.resume(cpu);
        loop {
            if let Some(pte) = self.translate_to_write(cpu, mm, vpn) {
                self.memory.write((mm, vpn), pte.frame);
                return Some(pte.frame);
            }
            self.fault(cpu, mm, vpn, true)?;
        }
    }

    /// Writes to each page that the CPU has a translation of.
    pub(super) fn write_what_is_cached(&mut self, cpu: Cpu) {
        let mm = self.resume(cpu);
        let vpns: Vec<Vpn> = self.entries(cpu, mm).keys().copied().collect();
        for vpn in vpns {
            self.write(cpu, vpn);
        }
    }

    fn translate_to_read(&mut self, cpu: Cpu, mm: MmId, vpn: Vpn) -> Option<Pte> {
        let walk = self.mms[mm].table.get(vpn);
        let entries = self.entries(cpu, mm);
        if let (None, Some(pte)) = (entries.get(&vpn), walk) {
            entries.insert(vpn, pte);
        }
        entries.get(&vpn).copied()
    }

    /// A translation that is writable and dirty is used as it is. With one that is clean, the CPU
    /// looks at the PTE again, to set Dirty there: that is the promise.
    fn translate_to_write(&mut self, cpu: Cpu, mm: MmId, vpn: Vpn) -> Option<Pte> {
        let keeps_promise = self.keeps_promise;
        match self.entries(cpu, mm).get(&vpn).copied() {
            Some(cached) if !cached.writable => None,
            Some(cached) if cached.dirty || !keeps_promise => Some(cached),
            _ => {
                let pte = self.mms[mm].table.walk_to_write(vpn)?;
                self.entries(cpu, mm).insert(vpn, pte);
                Some(pte)
            }
        }
    }

    /// A page fault: drops the CPU's entry, and maps the page or makes it writable. [`None`] if it
    /// has to wait, for the page-table lock or for the driver.
    fn fault(&mut self, cpu: Cpu, mm: MmId, vpn: Vpn, write: bool) -> Option<()> {
        self.entries(cpu, mm).remove(&vpn);
        let table = &mut self.mms[mm].table;
        if table.is_locked {
            return None;
        }
        match table.get(vpn) {
            Some(_) if write => table.make_writable(vpn),
            Some(_) => {}
            None if self.leaving.contains(&(mm, vpn)) => return None,
            None => table.map(vpn, self.memory.fault_in((mm, vpn)), write),
        }
        Some(())
    }
}
