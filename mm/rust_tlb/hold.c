// SPDX-License-Identifier: GPL-2.0
/*
 * Holds moments open that last too short to be met, for tests of deferred TLB
 * flushes: rust_tlb_hold in debugfs. Only with CONFIG_RUST_TLB_FAULTS.
 *
 * "fault TID" has the next fault of that thread wait before it locks the page
 * table that it has just made sure of. "tables TID" has the next flush of that
 * thread wait which page tables go with, after they were taken out. "move TID"
 * has the next mremap() of that thread wait where it has looked the new page
 * table up and not locked it yet, or where what maps PMD_SIZE is at neither
 * place; it spins, with the page tables of the old place locked. "pmd
 * ADDRESS" (hexadecimal) locks the PMD of the writer's own address, in this
 * call: so the table below it cannot be freed, as under any other contention of
 * that lock. "rmap ADDRESS" locks the VMAs of the file that is mapped there, as
 * munmap() does; "mmap" locks the mappings of the writer. All last until
 * somebody writes "go", ten seconds at most; "tables" half a second, since
 * others may wait for that thread with a lock that the writer of "go" needs.
 * Reads as 1 while one is held. "leaf TID" breaks a rule, until "go": that
 * thread's walks pass over leaves, which map PMD_SIZE as a whole.
 */

#include <linux/debugfs.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/tlb_hold.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "../internal.h"

#define MAX_HOLD	(10 * HZ)
#define MAX_HOLD_TABLES	(HZ / 2)

static DECLARE_WAIT_QUEUE_HEAD(let_go);
static pid_t waited_for;
static pid_t waited_for_tables;
static pid_t waited_for_move;
static pid_t passes_leaves;
static bool is_held;
static bool is_over;

static void hold(long max)
{
	WRITE_ONCE(is_held, true);
	wait_event_timeout(let_go, READ_ONCE(is_over), max);
	WRITE_ONCE(is_held, false);
}

/* As hold(), where it cannot sleep. */
static void hold_spinning(void)
{
	unsigned long end = jiffies + MAX_HOLD;

	WRITE_ONCE(is_held, true);
	while (!READ_ONCE(is_over) && time_before(jiffies, end))
		cpu_relax();
	WRITE_ONCE(is_held, false);
}

static bool is_told(pid_t *told)
{
	if (likely(READ_ONCE(*told) != task_pid_nr(current)))
		return false;

	WRITE_ONCE(*told, 0);
	return true;
}

static void hold_if(pid_t *told, long max)
{
	if (is_told(told))
		hold(max);
}

/* Context: in a fault that was told to, waits; may sleep. */
void tlb_hold_fault(void)
{
	hold_if(&waited_for, MAX_HOLD);
}

/* Context: as tlb_hold_fault(), between page tables and their flush. */
void tlb_hold_tables(void)
{
	hold_if(&waited_for_tables, MAX_HOLD_TABLES);
}

/* Context: any: does not sleep. */
void tlb_hold_move(void)
{
	if (is_told(&waited_for_move))
		hold_spinning();
}

/* Context: any, for the walks of this task. */
bool tlb_hold_passes_leaf(void)
{
	return unlikely(READ_ONCE(passes_leaves) == task_pid_nr(current));
}

static int hold_mmap(void)
{
	mmap_write_lock(current->mm);
	hold(MAX_HOLD);
	mmap_write_unlock(current->mm);
	return 0;
}

static int hold_rmap(unsigned long addr)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	struct file *file = NULL;

	mmap_read_lock(mm);
	vma = vma_lookup(mm, addr);
	if (vma && vma->vm_file)
		file = get_file(vma->vm_file);
	mmap_read_unlock(mm);
	if (!file)
		return -ENOENT;

	i_mmap_lock_write(file->f_mapping);
	hold(MAX_HOLD);
	i_mmap_unlock_write(file->f_mapping);
	fput(file);
	return 0;
}

static int hold_pmd(unsigned long addr)
{
	struct mm_struct *mm = current->mm;
	spinlock_t *pml;
	pmd_t *pmd;

	/* Keeps the tables above. */
	mmap_read_lock(mm);
	pmd = mm_find_pmd(mm, addr);
	if (pmd) {
		pml = pmd_lock(mm, pmd);
		hold_spinning();
		spin_unlock(pml);
	}
	mmap_read_unlock(mm);
	return pmd ? 0 : -ENOENT;
}

static int obey(const char *order)
{
	unsigned long addr;
	pid_t tid;

	if (!strcmp(order, "go")) {
		WRITE_ONCE(passes_leaves, 0);
		WRITE_ONCE(is_over, true);
		wake_up_all(&let_go);
		return 0;
	}
	WRITE_ONCE(is_over, false);
	if (sscanf(order, "fault %d", &tid) == 1) {
		WRITE_ONCE(waited_for, tid);
		return 0;
	}
	if (sscanf(order, "tables %d", &tid) == 1) {
		WRITE_ONCE(waited_for_tables, tid);
		return 0;
	}
	if (sscanf(order, "move %d", &tid) == 1) {
		WRITE_ONCE(waited_for_move, tid);
		return 0;
	}
	if (sscanf(order, "leaf %d", &tid) == 1) {
		WRITE_ONCE(passes_leaves, tid);
		return 0;
	}
	if (!strcmp(order, "mmap"))
		return hold_mmap();
	if (sscanf(order, "pmd %lx", &addr) == 1)
		return hold_pmd(addr);
	if (sscanf(order, "rmap %lx", &addr) == 1)
		return hold_rmap(addr);
	return -EINVAL;
}

static ssize_t hold_write(struct file *file, const char __user *from,
			  size_t len, loff_t *pos)
{
	char order[32] = {};
	int err;

	if (len >= sizeof(order))
		return -EINVAL;
	if (copy_from_user(order, from, len))
		return -EFAULT;
	err = obey(order);
	return err ? err : len;
}

static int hold_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%d\n", READ_ONCE(is_held));
	return 0;
}

static int hold_open(struct inode *inode, struct file *file)
{
	return single_open(file, hold_show, NULL);
}

static const struct file_operations hold_fops = {
	.owner		= THIS_MODULE,
	.open		= hold_open,
	.read		= seq_read,
	.write		= hold_write,
	.llseek		= seq_lseek,
	.release	= single_release,
};

static int __init tlb_hold_init(void)
{
	debugfs_create_file("rust_tlb_hold", 0600, NULL, NULL, &hold_fops);
	return 0;
}
late_initcall(tlb_hold_init);
