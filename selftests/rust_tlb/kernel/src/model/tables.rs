// SPDX-License-Identifier: GPL-2.0

//! Page tables that are taken out: whatever the policy, the machine is told of each of them, and
//! flushes afterwards, in a round that goes to CPUs in lazy mode, too.

use super::{
    ids::MmId,
    machine::{Model, ModelMm, ModelPin, MMS},
};
use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        range::{PageRange, Pending},
        tlb::{
            broadcast::Broadcast,
            per_page::PerPage,
            policy::{sealed::Sealed, Flush, Machine, Policy, Rule},
            precise::Precise,
            ringed::Ringed,
            scope::{Hoisted, Scope},
            unflushed::Unflushed,
        },
        window::PTRS_PER_PTE,
    },
    page::PAGE_SIZE,
};
use proptest::prelude::*;
use std::{cell::RefCell, rc::Rc};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// A table of an address space, by the first address that it maps.
    Table(MmId, usize),
    /// A round for all that was noted before.
    Flush,
}

/// What a machine was asked to do.
#[derive(Clone, Default)]
struct Calls(Rc<RefCell<Vec<Call>>>);

impl Calls {
    fn push(&self, call: Call) {
        self.0.borrow_mut().push(call);
    }
}

impl Sealed for Calls {}

impl Machine for Calls {
    type Mm = ModelMm;
    type Pin = ModelPin;

    fn pin(mm: &ModelMm) -> ModelPin {
        Model::pin(mm)
    }

    fn ceiling_pages(&self) -> usize {
        33
    }

    fn add_pending(&mut self, _mm: &ModelMm, _range: PageRange) {}

    fn add_pending_table(&mut self, mm: &ModelMm, range: PageRange) {
        assert_eq!(range.span_pages(), PTRS_PER_PTE);
        self.push(Call::Table(mm.0, range.start()));
    }

    fn note_batched(&mut self, _mm: &ModelMm) {}

    fn flush_pending(&mut self) {
        self.push(Call::Flush);
    }

    fn flush_mm(&mut self, _mm: &ModelMm, _range: Option<PageRange>) {}
}

type AnyPolicy = dyn Flush<Mm = ModelMm>;
type NewPolicy = fn(&Calls) -> Box<AnyPolicy>;

fn of<R: Rule<Calls> + Default + 'static>(calls: &Calls) -> Box<AnyPolicy> {
    Box::new(Policy::<_, R>::new(calls.clone()))
}

fn ringed(calls: &Calls) -> Box<AnyPolicy> {
    let rule = Ringed::new(GFP_KERNEL).unwrap();
    Box::new(Policy::with(calls.clone(), rule))
}

fn hoisted(calls: &Calls) -> Box<AnyPolicy> {
    let policy = || KBox::from(of::<Precise>(calls));
    let scope = Scope::new([policy(), policy()], GFP_KERNEL).unwrap();
    Box::new(Hoisted::new(scope))
}

const POLICIES: [NewPolicy; 5] = [
    of::<Broadcast>,
    of::<Precise>,
    of::<PerPage>,
    ringed,
    hoisted,
];

/// Something that was taken out of an address space.
#[derive(Clone, Copy, Debug)]
struct Taken {
    mm: MmId,
    table: usize,
    /// The table itself, or a page that it maps.
    is_table: bool,
}

fn taken() -> impl Strategy<Value = Taken> {
    (0..MMS.len(), 0..3_usize, any::<bool>()).prop_map(|(mm, table, is_table)| Taken {
        mm,
        table,
        is_table,
    })
}

impl Taken {
    fn start(&self) -> usize {
        self.table * PTRS_PER_PTE * PAGE_SIZE
    }

    fn record(&self, policy: &mut AnyPolicy) {
        let mm = &MMS[self.mm];
        if self.is_table {
            let end = self.start() + PTRS_PER_PTE * PAGE_SIZE;
            return policy.record_table(mm, PageRange::new(self.start(), end).unwrap());
        }
        let page = PageRange::of_page(self.start()).unwrap();
        policy.cleared(mm, page);
        policy.record(mm, Pending::new(page, 1));
    }
}

/// Whether each table was told of, and flushed after that.
fn all_are_flushed(policy: NewPolicy, all: &[Taken]) -> bool {
    let calls = Calls::default();
    let mut policy = policy(&calls);
    all.iter().for_each(|taken| taken.record(&mut *policy));
    policy.flush();
    policy.wait();
    let calls = calls.0.borrow();
    all.iter().filter(|taken| taken.is_table).all(|taken| {
        let told = |call: &Call| *call == Call::Table(taken.mm, taken.start());
        let at = calls.iter().position(told);
        at.is_some_and(|at| calls[at..].contains(&Call::Flush))
    })
}

proptest! {
    #[test]
    fn tables_are_flushed_by_every_policy(all in prop::collection::vec(taken(), 1..40)) {
        for policy in POLICIES {
            prop_assert!(all_are_flushed(policy, &all));
        }
    }
}

/// The control.
#[test]
fn tables_that_are_not_flushed_are_found() {
    let table = Taken {
        mm: 0,
        table: 1,
        is_table: true,
    };
    assert!(!all_are_flushed(of::<Unflushed>, &[table]));
}
