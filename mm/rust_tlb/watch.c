// SPDX-License-Identifier: GPL-2.0
/*
 * Looks on as a secondary MMU does, to tell whether the bracket of the MMU
 * notifiers around a change ends before the CPUs' own TLBs are flushed: from its
 * end on, KVM may map for a guest what user space sees by then. rust_tlb_watch
 * in debugfs. Only with CONFIG_RUST_TLB_FAULTS.
 *
 * Write an address (hexadecimal) to watch the brackets of the writer's own mm
 * that begin there; 0 to stop. One mm at a time. Reads as two numbers: how many
 * have ended, and how many of them with no flush since they began.
 */

#include <linux/debugfs.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/sched.h>

static DEFINE_MUTEX(watch_lock);
static struct mm_struct *watched;
static unsigned long watched_start;
/* At that address. */
static bool is_flushed;
static unsigned long nr_ended;
static unsigned long nr_unflushed;

static int bracket_begins(struct mmu_notifier *mn,
			  const struct mmu_notifier_range *range)
{
	if (range->start == READ_ONCE(watched_start))
		WRITE_ONCE(is_flushed, false);
	return 0;
}

static void bracket_ends(struct mmu_notifier *mn,
			 const struct mmu_notifier_range *range)
{
	if (range->start != READ_ONCE(watched_start))
		return;

	WRITE_ONCE(nr_ended, nr_ended + 1);
	if (!READ_ONCE(is_flushed))
		WRITE_ONCE(nr_unflushed, nr_unflushed + 1);
}

static void tlb_is_flushed(struct mmu_notifier *mn, struct mm_struct *mm,
			   unsigned long start, unsigned long end)
{
	unsigned long addr = READ_ONCE(watched_start);

	if (start <= addr && addr < end)
		WRITE_ONCE(is_flushed, true);
}

/* Nobody may ask for both in one. */
static const struct mmu_notifier_ops bracket_ops = {
	.invalidate_range_start	= bracket_begins,
	.invalidate_range_end	= bracket_ends,
};

static const struct mmu_notifier_ops flush_ops = {
	.arch_invalidate_secondary_tlbs	= tlb_is_flushed,
};

static struct mmu_notifier brackets = { .ops = &bracket_ops };
static struct mmu_notifier flushes = { .ops = &flush_ops };

static void stop(void)
{
	if (!watched)
		return;

	mmu_notifier_unregister(&brackets, watched);
	mmu_notifier_unregister(&flushes, watched);
	watched = NULL;
}

static int watch(unsigned long start)
{
	struct mm_struct *mm = current->mm;
	int err;

	WRITE_ONCE(watched_start, start);
	WRITE_ONCE(nr_ended, 0);
	WRITE_ONCE(nr_unflushed, 0);
	err = mmu_notifier_register(&brackets, mm);
	if (err)
		return err;
	err = mmu_notifier_register(&flushes, mm);
	if (err)
		mmu_notifier_unregister(&brackets, mm);
	else
		watched = mm;
	return err;
}

static ssize_t watch_write(struct file *file, const char __user *from,
			   size_t len, loff_t *pos)
{
	unsigned long start;
	int err = kstrtoul_from_user(from, len, 16, &start);

	if (err)
		return err;
	mutex_lock(&watch_lock);
	stop();
	if (start)
		err = watch(start);
	mutex_unlock(&watch_lock);
	return err ? err : len;
}

static ssize_t watch_read(struct file *file, char __user *to, size_t len,
			  loff_t *pos)
{
	char text[48];
	int text_len = scnprintf(text, sizeof(text), "%lu %lu\n",
				 READ_ONCE(nr_ended), READ_ONCE(nr_unflushed));

	return simple_read_from_buffer(to, len, pos, text, text_len);
}

static const struct file_operations watch_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.read	= watch_read,
	.write	= watch_write,
	.llseek	= default_llseek,
};

static int __init tlb_watch_init(void)
{
	debugfs_create_file("rust_tlb_watch", 0600, NULL, NULL, &watch_fops);
	return 0;
}
late_initcall(tlb_watch_init);
