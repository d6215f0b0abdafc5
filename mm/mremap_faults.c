// SPDX-License-Identifier: GPL-2.0
/*
 * Breaks the rules of the runs of mremap() (mm/mremap.c), one at a time, to show
 * that tests notice; and holds their window open. By hand, in debugfs:
 *
 *   mremap/faults   bits of enum mremap_fault; 0 at first
 *   mremap/window   reads 1 while a run waits; write 0 to let it go on. It goes
 *                   on by itself after WINDOW_MAX_MS.
 *
 * What is owed is one range for all: one move at a time is to be broken.
 */

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/slab.h>

#include <asm/tlbflush.h>

#include "mremap_run.h"

/* Entries after which MREMAP_FAULT_STOP_EARLY stops. */
#define STOPS_AFTER 3
#define WINDOW_MAX_MS 5000

static u32 faults;
static u32 window;

/* A flush that is yet to come. */
static struct {
	struct mm_struct *mm;
	unsigned long start, end;
} owed;

static bool is_set(enum mremap_fault fault)
{
	return READ_ONCE(faults) & fault;
}

void __init mremap_faults_init(struct dentry *dir)
{
	debugfs_create_u32("faults", 0600, dir, &faults);
	debugfs_create_u32("window", 0600, dir, &window);
}

/* With @may_sleep false, spins: others have to see to what ends the wait. */
static void hold_window_open(bool may_sleep)
{
	const unsigned long end = jiffies + msecs_to_jiffies(WINDOW_MAX_MS);

	WRITE_ONCE(window, 1);
	while (READ_ONCE(window) && time_before(jiffies, end)) {
		if (may_sleep)
			usleep_range(1000, 2000);
		else
			cpu_relax();
	}
	WRITE_ONCE(window, 0);
}

bool mremap_fault_stops(unsigned long nr_moved)
{
	return is_set(MREMAP_FAULT_STOP_EARLY) && nr_moved == STOPS_AFTER;
}

void mremap_fault_allocate(void)
{
	if (is_set(MREMAP_FAULT_ALLOCATE))
		kfree(kmalloc(64, GFP_NOWAIT));
}

/* Returns whether the flush is not to be done now. */
bool mremap_fault_flush(struct vm_area_struct *vma, unsigned long start,
			unsigned long len)
{
	if (is_set(MREMAP_FAULT_HOLD))
		hold_window_open(false);
	if (is_set(MREMAP_FAULT_STRIDE_OF_PMD)) {
		flush_tlb_mm_range(vma->vm_mm, start, start + len, PMD_SHIFT,
				   true);
		return true;
	}
	if (is_set(MREMAP_FAULT_UNLOCK_FIRST | MREMAP_FAULT_END_FIRST)) {
		owed.mm = vma->vm_mm;
		owed.start = start;
		owed.end = start + len;
		return true;
	}
	return is_set(MREMAP_FAULT_UNFLUSHED);
}

/* Pays what mremap_fault_flush() left, @when the rule is broken. */
void mremap_fault_flush_late(enum mremap_fault when,
			     struct vm_area_struct *vma)
{
	if (!is_set(when) || owed.mm != vma->vm_mm)
		return;

	owed.mm = NULL;
	hold_window_open(true);
	flush_tlb_mm_range(vma->vm_mm, owed.start, owed.end, PAGE_SHIFT, true);
}
