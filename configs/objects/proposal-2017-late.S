# The same with the native text's pop five bytes later: each platform's call is then
# looked up in the native text's state.
.include "site.inc"
.set VSMP, 21*32+30
.set LGUEST, 21*32+31
.text
FUNC victim
661:	pushfq; nop; nop; nop; popq %rax
662:
REPLACEMENT
1:	pushfq; nop; nop; nop; popq %rax
2:	call xen_save_fl
3:	call vsmp_save_fl
4:	call lguest_save_fl
5:
REPLACEMENT_END
ALT 1b, 2b, ALWAYS
ALT 2b, 3b, XENPV
ALT 3b, 4b, VSMP
ALT 4b, 5b, LGUEST
FUNC_END victim
FUNC xen_save_fl
FUNC_END xen_save_fl
FUNC vsmp_save_fl
FUNC_END vsmp_save_fl
FUNC lguest_save_fl
FUNC_END lguest_save_fl
