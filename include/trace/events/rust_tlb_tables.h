/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page tables that are taken out, or not, by rust/kernel/mm/tlb/tables.rs.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rust_tlb

#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE rust_tlb_tables

#if !defined(_TRACE_RUST_TLB_TABLES_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_RUST_TLB_TABLES_H

#include <linux/mm_types.h>
#include <linux/tracepoint.h>

/* As enum tlb_batch_table_fate. */
#define show_rust_tlb_table_fate(fate)			\
	__print_symbolic(fate,				\
		{ 0, "taken" },				\
		{ 1, "absent" },			\
		{ 2, "used" },				\
		{ 3, "busy" })

/* A table that may be empty was looked at. @addr is the first that it maps. */
TRACE_EVENT(rust_tlb_table_take,
	TP_PROTO(const struct mm_struct *mm, unsigned long addr, int fate),
	TP_ARGS(mm, addr, fate),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(unsigned long, addr)
		__field(int, fate)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->fate = fate;
	),
	TP_printk("mm=%p addr=%lx fate=%s", __entry->mm, __entry->addr,
		  show_rust_tlb_table_fate(__entry->fate))
);

#endif /* _TRACE_RUST_TLB_TABLES_H */

#include <trace/define_trace.h>
