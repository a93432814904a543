# FILL_RETURN_BUFFER of 6.0 to 6.2, before 6ea17e848a8b aligned its two texts: one
# pushes a word at an offset where the other's frame is lower.
.include "site.inc"
.text
FUNC victim
661:	.byte	0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 # one NOP
662:
REPLACEMENT
1:	push %rax; push %rax; add $16, %rsp; nop; nop
2:	nop; push %rax; pop %rax
3:
REPLACEMENT_END
ALT 1b, 2b, ERMS
ALT 2b, 3b, FSRM
FUNC_END victim
