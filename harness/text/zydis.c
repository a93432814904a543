// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The fast engine behind text/decode.py: one pass of Zydis over machine code, which
 * fills the columns of text/insn.py. Zydis decodes; this file only says what the
 * kinds are called, and where a sweep begins anew.
 *
 * Called through ctypes (text/engine_zydis.py), without the GIL and from several
 * threads: nothing here is kept between calls.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <Zydis/Zydis.h>

#define XEN_PREFIX "\x0f\x0bxen"

/* text/insn.py, InsnKind */
enum kind {
	OTHER, NOP, CALL, CALL_INDIRECT, JMP, JMP_INDIRECT, JCC, RET, PUSH, POP,
	PUSHF, POPF, LEAVE, STACK, FRAME, TRAP, UD, END, ENDBR, BAD,
};

static const uint8_t kind_of[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
	[ZYDIS_MNEMONIC_NOP] = NOP,
	[ZYDIS_MNEMONIC_CALL] = CALL,
	[ZYDIS_MNEMONIC_JMP] = JMP,
	[ZYDIS_MNEMONIC_JB] = JCC,
	[ZYDIS_MNEMONIC_JBE] = JCC,
	[ZYDIS_MNEMONIC_JCXZ] = JCC,
	[ZYDIS_MNEMONIC_JECXZ] = JCC,
	[ZYDIS_MNEMONIC_JL] = JCC,
	[ZYDIS_MNEMONIC_JLE] = JCC,
	[ZYDIS_MNEMONIC_JNB] = JCC,
	[ZYDIS_MNEMONIC_JNBE] = JCC,
	[ZYDIS_MNEMONIC_JNL] = JCC,
	[ZYDIS_MNEMONIC_JNLE] = JCC,
	[ZYDIS_MNEMONIC_JNO] = JCC,
	[ZYDIS_MNEMONIC_JNP] = JCC,
	[ZYDIS_MNEMONIC_JNS] = JCC,
	[ZYDIS_MNEMONIC_JNZ] = JCC,
	[ZYDIS_MNEMONIC_JO] = JCC,
	[ZYDIS_MNEMONIC_JP] = JCC,
	[ZYDIS_MNEMONIC_JRCXZ] = JCC,
	[ZYDIS_MNEMONIC_JS] = JCC,
	[ZYDIS_MNEMONIC_JZ] = JCC,
	[ZYDIS_MNEMONIC_LOOP] = JCC,
	[ZYDIS_MNEMONIC_LOOPE] = JCC,
	[ZYDIS_MNEMONIC_LOOPNE] = JCC,
	[ZYDIS_MNEMONIC_XBEGIN] = JCC,
	[ZYDIS_MNEMONIC_RET] = RET,
	[ZYDIS_MNEMONIC_PUSH] = PUSH,
	[ZYDIS_MNEMONIC_POP] = POP,
	[ZYDIS_MNEMONIC_PUSHF] = PUSHF,
	[ZYDIS_MNEMONIC_PUSHFD] = PUSHF,
	[ZYDIS_MNEMONIC_PUSHFQ] = PUSHF,
	[ZYDIS_MNEMONIC_POPF] = POPF,
	[ZYDIS_MNEMONIC_POPFD] = POPF,
	[ZYDIS_MNEMONIC_POPFQ] = POPF,
	[ZYDIS_MNEMONIC_LEAVE] = LEAVE,
	[ZYDIS_MNEMONIC_ENTER] = STACK,
	[ZYDIS_MNEMONIC_INT3] = TRAP,
	[ZYDIS_MNEMONIC_UD0] = UD,
	[ZYDIS_MNEMONIC_UD1] = UD,
	[ZYDIS_MNEMONIC_UD2] = UD,
	[ZYDIS_MNEMONIC_IRET] = END,
	[ZYDIS_MNEMONIC_IRETD] = END,
	[ZYDIS_MNEMONIC_IRETQ] = END,
	[ZYDIS_MNEMONIC_SYSRET] = END,
	[ZYDIS_MNEMONIC_SYSEXIT] = END,
	[ZYDIS_MNEMONIC_ENDBR32] = ENDBR,
	[ZYDIS_MNEMONIC_ENDBR64] = ENDBR,
};

/* text/effect.py, Form; what is left to effect_of() there is RARE */
enum form {
	UNKNOWN, MOVE, PUSH_BP, POP_BP, POP_SP, LEAVE_BP, MOV_SP_BP, LEA_SP_BP, SET_SP,
	MOV_BP_SP, LOAD_BP, SET_BP, RARE = 0xff,
};

/* Says of what Zydis does not know what it is: kind << 8 | size; 0 if it is nothing. */
typedef uint32_t (*gap_fn)(const uint8_t *code, size_t length);

/* The minimal one is fast, and knows no operands. */
struct decoders {
	ZydisDecoder minimal, full;
};

/* What is decoded, where it is mapped, and what is known of it. */
struct text {
	const uint8_t *data;
	uint64_t address;
	const int64_t *stretches; /* [first, last) each: what to decode */
	uint64_t stretch_count;
	const int64_t *starts; /* where an instruction must start, sorted */
	uint64_t start_count;
};

/* Columns of text/insn.py, with room for a row per byte of the stretches. */
struct columns {
	uint64_t *address;
	uint8_t *size;
	uint8_t *kind;
	uint64_t *target;
	uint64_t count;
	/* those that write %rsp or %rbp, again */
	int64_t *effect_row;
	uint8_t *effect_form;
	int64_t *effect_delta;
	uint64_t effect_count;
};

/*
 * Whether a register field holds 4 or 5: only then can it be %rsp or %rbp. Newer
 * encodings have more fields, and are few.
 */
static int may_name_stack(const ZydisDecodedInstruction *insn)
{
	const int stack = 4, mask = 6;

	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return 1;
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->opcode & 0xfc) == 0x20)
		return 1; /* mov %crN and %dbN: whatever mod is, a register */
	if (!insn->raw.modrm.offset)
		return (insn->opcode & mask) == stack && !insn->raw.rex.B;
	return ((insn->raw.modrm.reg & mask) == stack && !insn->raw.rex.R) ||
	       (insn->raw.modrm.mod == 3 && (insn->raw.modrm.rm & mask) == stack &&
		!insn->raw.rex.B);
}

/* STACK if an operand that is written is %rsp or a part of it, FRAME if %rbp. */
static uint8_t written(const ZydisDecoder *full, const uint8_t *code, size_t length)
{
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;
	uint8_t kind = OTHER;

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(full, code, length, &insn, operands)))
		return OTHER;
	for (int i = 0; i < insn.operand_count_visible; i++) {
		if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
							 operands[i].reg.value)) {
		case ZYDIS_REGISTER_RSP:
			return STACK;
		case ZYDIS_REGISTER_RBP:
			kind = FRAME;
			break;
		default:
			break;
		}
	}
	return kind;
}

/* The kind of what Zydis decoded. */
static uint8_t classify(const struct decoders *decoders, const uint8_t *code,
			const ZydisDecodedInstruction *insn)
{
	uint8_t kind = kind_of[insn->mnemonic];

	switch (kind) {
	case OTHER:
		if (!may_name_stack(insn))
			return OTHER;
		return written(&decoders->full, code, insn->length);
	case CALL:
		return insn->raw.imm[0].is_relative ? CALL : CALL_INDIRECT;
	case JMP:
		return insn->raw.imm[0].is_relative ? JMP : JMP_INDIRECT;
	}
	return kind;
}

static int64_t signed_at(const uint8_t *code, int size)
{
	int32_t value;
	int16_t word;

	if (size == 1)
		return (int8_t)code[0];
	if (size == 2) {
		memcpy(&word, code, sizeof(word));
		return word;
	}
	memcpy(&value, code, sizeof(value));
	return value;
}

/*
 * What Zydis said of an instruction, which it says again of all that begin with the
 * same bytes: prefixes, opcode, ModRM and SIB. What follows these, a displacement or an
 * immediate, is only a value. (Not so the immediate of 3DNow!, an encoding of its own.)
 */
struct known {
	uint32_t start; /* these bytes */
	uint8_t size, kind, relative; /* relative: bytes of a branch's displacement */
};

/* By how many bytes begin it; what is new takes the place of what was there. */
enum { LEAST = 2, MOST = 4, PLACE_BITS = 13 };

struct memory {
	struct known of[MOST + 1 - LEAST][1 << PLACE_BITS];
};

static uint32_t start_of(const uint8_t *code, int length)
{
	uint32_t bytes;

	memcpy(&bytes, code, sizeof(bytes));
	return bytes & (0xffffffffu >> 8 * (MOST - length));
}

static struct known *place(struct memory *memory, uint32_t start, int length)
{
	const uint32_t hash = start * 0x9e3779b1u; /* 2^32 over the golden ratio */

	return &memory->of[length - LEAST][hash >> (32 - PLACE_BITS)];
}

/* What is known of the instruction at ``code``, of which there are MOST bytes. */
static const struct known *recall(struct memory *memory, const uint8_t *code)
{
	for (int length = LEAST; length <= MOST; length++) {
		const uint32_t start = start_of(code, length);
		const struct known *known = place(memory, start, length);

		if (known->start == start && known->size)
			return known;
	}
	return NULL;
}

static void remember(struct memory *memory, const uint8_t *code,
		     const ZydisDecodedInstruction *insn, uint8_t kind, int relative)
{
	const int values = insn->raw.disp.size + insn->raw.imm[0].size +
			   insn->raw.imm[1].size;
	int length = insn->length - values / 8;

	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || length > MOST ||
	    kind == UD) /* of which one may be a prefix of Xen */
		return;
	if (length < LEAST)
		length = LEAST;
	*place(memory, start_of(code, length), length) = (struct known){
		start_of(code, length), insn->length, kind, relative,
	};
}

/* A write of %rsp: add, sub or and of a constant, the end of a frame. */
static uint8_t stack_effect(const uint8_t *code, size_t length, int64_t *delta)
{
	const int size = code[1] == 0x81 ? 4 : 1;

	if (length < 4 || code[0] != 0x48)
		return RARE;
	if (code[1] == 0x8d && code[2] == 0x65) {
		*delta = signed_at(code + 3, 1);
		return LEA_SP_BP;
	}
	if (code[1] != 0x83 && code[1] != 0x81)
		return RARE;
	if (code[1] == 0x83 && code[2] == 0xe4)
		return SET_SP;
	if (code[2] != 0xc4 && code[2] != 0xec)
		return RARE;
	*delta = signed_at(code + 3, size);
	if (code[2] == 0xec)
		*delta = -*delta;
	return MOVE;
}

/* A write of %rbp: nearly all have nothing to do with a frame. */
static uint8_t frame_effect(const uint8_t *code, size_t length, int64_t *delta)
{
	const int rex = (code[0] & 0xf0) == 0x40;

	if (length >= 3 && code[0] == 0x48 && code[1] == 0x89 && code[2] == 0xe5)
		return MOV_BP_SP;
	if (length >= 5 && code[0] == 0x48 && code[1] == 0x8b && code[3] == 0x24 &&
	    (code[2] == 0x6c || (code[2] == 0xac && length >= 8))) {
		*delta = signed_at(code + 4, code[2] == 0x6c ? 1 : 4);
		return LOAD_BP;
	}
	switch (code[0]) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64 ... 0x67:
	case 0xf0: case 0xf2: case 0xf3:
		return RARE;
	}
	if (!rex || length < 3 || (code[1] & 0xfd) != 0x89)
		return SET_BP;
	if (code[1] == 0x89 && code[2] >= 0xc0) /* from a register, but for %rsp */
		return (code[2] >> 3 & 7) != 4 || (code[0] & 4) ? SET_BP : RARE;
	return code[2] >= 0xc0 || (code[2] & 7) == 4 ? RARE : SET_BP;
}

/* What an instruction does that writes %rsp or %rbp, as far as it is usual. */
static uint8_t effect(uint8_t kind, const uint8_t *code, size_t length, int64_t *delta)
{
	const int rex = (code[0] & 0xf0) == 0x40, extended = rex && (code[0] & 1);
	const uint8_t opcode = code[rex];

	*delta = 0;
	switch (kind) {
	case PUSH:
		if ((opcode & 0xf8) != 0x50 && (opcode & 0xfd) != 0x68 && opcode != 0xff)
			return RARE;
		*delta = -8;
		return opcode == 0x55 && !extended ? PUSH_BP : MOVE;
	case PUSHF:
		*delta = -8;
		return opcode == 0x9c ? MOVE : RARE;
	case POP:
		if ((opcode & 0xf8) != 0x58)
			return RARE;
		*delta = 8;
		if (extended)
			return MOVE;
		return opcode == 0x5d ? POP_BP : opcode == 0x5c ? POP_SP : MOVE;
	case POPF:
		*delta = 8;
		return opcode == 0x9d ? MOVE : RARE;
	case LEAVE:
		return opcode == 0xc9 ? LEAVE_BP : RARE;
	case STACK:
		return stack_effect(code, length, delta);
	default:
		return frame_effect(code, length, delta);
	}
}

/* What Xen traps starts with a prefix of its own, which Zydis takes for ud2. */
static int is_xen_prefix(const uint8_t *code, size_t length)
{
	return length >= sizeof(XEN_PREFIX) - 1 &&
	       !memcmp(code, XEN_PREFIX, sizeof(XEN_PREFIX) - 1);
}

/* Decode what is at ``at``, which may not reach over ``last``. */
static uint8_t one(const struct decoders *decoders, struct memory *memory, gap_fn gap,
		   const struct text *text, int64_t at, int64_t last, int64_t *size,
		   uint64_t *target)
{
	const uint8_t *code = text->data + at;
	const size_t length = last - at;
	const struct known *known = length < MOST ? NULL : recall(memory, code);
	ZydisDecodedInstruction insn;
	int relative = 0;
	uint32_t found;
	uint8_t kind;

	*target = 0;
	if (known && known->size <= length) {
		*size = known->size;
		kind = known->kind;
		relative = known->relative;
	} else if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
			   &decoders->minimal, NULL, code, length, &insn)) &&
		   (insn.mnemonic != ZYDIS_MNEMONIC_UD2 ||
		    !is_xen_prefix(code, length))) {
		*size = insn.length;
		kind = classify(decoders, code, &insn);
		if (kind == CALL || kind == JMP || kind == JCC)
			relative = insn.raw.imm[0].size / 8;
		if (length >= MOST)
			remember(memory, code, &insn, kind, relative);
	} else {
		found = gap(code, length);
		*size = found ? found & 0xff : 1;
		return found ? found >> 8 : BAD;
	}
	if (relative)
		*target = text->address + at + *size +
			  signed_at(code + *size - relative, relative);
	return kind;
}

/* Changes whenever the structures above do: an old build is not called. */
uint32_t orc_zydis_interface(void)
{
	return 4;
}

static int start(struct decoders *decoders)
{
	return ZYAN_SUCCESS(ZydisDecoderInit(&decoders->full, ZYDIS_MACHINE_MODE_LONG_64,
					     ZYDIS_STACK_WIDTH_64)) &&
	       ZYAN_SUCCESS(ZydisDecoderInit(&decoders->minimal,
					     ZYDIS_MACHINE_MODE_LONG_64,
					     ZYDIS_STACK_WIDTH_64)) &&
	       ZYAN_SUCCESS(ZydisDecoderEnableMode(&decoders->minimal,
						   ZYDIS_DECODER_MODE_MINIMAL,
						   ZYAN_TRUE));
}

static void enter(struct columns *columns, uint64_t row, uint8_t kind,
		  const uint8_t *code, size_t length)
{
	const uint64_t at = columns->effect_count++;

	columns->effect_row[at] = row;
	columns->effect_form[at] = effect(kind, code, length, &columns->effect_delta[at]);
}

/* Append the rows of ``text`` to ``columns``. */
static void sweep(const struct decoders *decoders, struct memory *memory, gap_fn gap,
		  const struct text *text, struct columns *columns)
{
	uint64_t next = 0, row = columns->count;

	for (uint64_t i = 0; i < text->stretch_count; i++) {
		int64_t at = text->stretches[2 * i], last = text->stretches[2 * i + 1];

		while (at < last) {
			int64_t size;
			uint64_t target;
			uint8_t kind = one(decoders, memory, gap, text, at, last, &size,
					   &target);

			while (next < text->start_count && text->starts[next] <= at)
				next++;
			if (next < text->start_count &&
			    text->starts[next] < at + size) {
				size = text->starts[next] - at;
				kind = BAD;
				target = 0;
			}
			columns->address[row] = text->address + at;
			columns->size[row] = size;
			columns->kind[row] = kind;
			columns->target[row] = target;
			if (kind >= PUSH && kind <= FRAME)
				enter(columns, row, kind, text->data + at, size);
			row++;
			at += size;
		}
	}
	columns->count = row;
}

/* Decode ``count`` texts into ``columns``; 0, or -1 if that does not start. */
int orc_zydis_decode(const struct text *texts, uint64_t count, gap_fn gap,
		     struct columns *columns)
{
	struct decoders decoders;
	struct memory *memory;

	if (!start(&decoders) || !(memory = calloc(1, sizeof(*memory))))
		return -1;
	columns->count = columns->effect_count = 0;
	for (uint64_t i = 0; i < count; i++)
		sweep(&decoders, memory, gap, &texts[i], columns);
	free(memory);
	return 0;
}
