# Class f: objtool takes the original of a SMAP alternative for replaced and never
# follows it. Unmerged, its NOPs start where pushf's entry is.
.include "site.inc"
.text
FUNC victim
661:	nop; nop; nop; nop; nop
662:
REPLACEMENT
1:	pushf; pop %rax; clac
2:
REPLACEMENT_END
ALT 1b, 2b, SMAP
FUNC_END victim
