// SPDX-License-Identifier: GPL-2.0
/*
 * Address spaces that Rust drivers give to their open files.
 *
 * The address space of a device node has the VMAs of all who have the node
 * open. Who looks for those of one file, goes by those of all others, and keeps
 * them from being changed meanwhile. So a file can be given another one, as DRM
 * and DAX do it: that of an anonymous inode.
 *
 * The file system of these inodes is the kernel's own. It is never unmounted,
 * and so whoever pins the inode can use the address space, for as long as he
 * likes: unlike that of a device node, whose file system can be unmounted.
 */

#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/init.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/tlb_mapping.h>

#define TLB_MAPPING_MAGIC	0x544c424d	/* TLBM */

static struct vfsmount *mnt __ro_after_init;

/* Returns NULL if there is no memory. Context: may sleep. */
struct address_space *tlb_mapping_new(void)
{
	struct inode *inode = alloc_anon_inode(mnt->mnt_sb);

	return IS_ERR(inode) ? NULL : inode->i_mapping;
}

/* Context: a reference is held already. */
void tlb_mapping_get(struct address_space *mapping)
{
	ihold(mapping->host);
}

/* Context: may sleep. */
void tlb_mapping_put(struct address_space *mapping)
{
	iput(mapping->host);
}

/*
 * From now on, the VMAs of @file are found in @mapping.
 * Context: @file is being opened, so that it has no VMAs yet. A reference to
 * @mapping has to be held until it has none any more: until its ->release().
 */
void tlb_mapping_install(struct file *file, struct address_space *mapping)
{
	file->f_mapping = mapping;
	file->f_wb_err = filemap_sample_wb_err(mapping);
}

static int tlb_mapping_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, TLB_MAPPING_MAGIC) ? 0 : -ENOMEM;
}

static struct file_system_type tlb_mapping_fs = {
	.name			= "tlb_mapping",
	.init_fs_context	= tlb_mapping_init_fs_context,
	.kill_sb		= kill_anon_super,
};

static int __init tlb_mapping_init(void)
{
	mnt = kern_mount(&tlb_mapping_fs);
	if (IS_ERR(mnt))
		panic("tlb_mapping: cannot be mounted: %pe\n", mnt);
	return 0;
}
fs_initcall(tlb_mapping_init);
