# Class g: the merge has an entry behind pushf, the table that is shipped has not.
.include "site.inc"
.text
FUNC victim
661:	call *pointer(%rip)
662:
REPLACEMENT
1:	pushf; pop %rax
2:
REPLACEMENT_END
ALT 1b, 2b, XENPV, NOT
FUNC_END victim
ORC victim, 8, CALL
ORC victim+11, 0, UNDEFINED
.data
pointer:
	.quad	victim
