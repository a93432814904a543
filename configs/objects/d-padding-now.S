# The same site since 6.3: one NOP pads the short text, and nothing starts at +8.
.include "site.inc"
.text
FUNC victim
661:	.byte	0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 # one NOP
662:
REPLACEMENT
1:	xor %eax, %eax; .byte 0x0f, 0x1f, 0x44, 0, 0; push %rax; nop; pop %rax; nop
2:	nop
3:
REPLACEMENT_END
ALT 1b, 2b, ERMS
ALT 2b, 3b, FSRM
FUNC_END victim
