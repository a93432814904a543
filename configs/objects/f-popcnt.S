# Class f: objtool takes the original of a POPCNT alternative for always replaced and
# never follows it (arch_handle_alternative()). On a machine without POPCNT it runs.
.include "site.inc"
.set POPCNT, 4*32+23
.text
FUNC victim
661:	push %rdx; nop; nop; nop; pop %rdx
662:
REPLACEMENT
1:	popcnt %rdi, %rax
2:
REPLACEMENT_END
ALT 1b, 2b, POPCNT
FUNC_END victim
