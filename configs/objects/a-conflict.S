# Class a: at +1 one replacement has pushed a word and the other has not.
.include "site.inc"
.text
FUNC victim
661:	nop; nop; nop
662:
REPLACEMENT
1:	push %rax; nop; pop %rax
2:	nop; push %rax; pop %rax
3:
REPLACEMENT_END
ALT 1b, 2b, ERMS
ALT 2b, 3b, FSRM
FUNC_END victim
