// SPDX-License-Identifier: GPL-2.0-or-later
#include "insn.h"

#include <string.h>

#define XEN_CPUID_BYTES 7

/*
 * What an opcode may write besides memory and fixed registers other than RSP:
 * N nothing, R the register of ModRM.reg, M that of ModRM.rm, B both, X anything.
 */
static const char one_byte[] =
	"MMRRNNXXMMRRNNXX" "MMRRNNXXMMRRNNXX" "MMRRNNXXMMRRNNXX" "MMRRNNXXNNNNNNXX"
	"XXXXXXXXXXXXXXXX" "XXXXXXXXXXXXXXXX" "XXXRXXXXXRXRNNNN" "NNNNNNNNNNNNNNNN"
	"MMXMNNBBMMRRMRXX" "NXXXXXXXNNXXXXXX" "XXXXNNNNNNNNNNNN" "NNNNXNNNNNNNXNNN"
	"MMXXXXMMXXXXXXXX" "MMMMXXXXXXXXXXXX" "XXXXNNNNXNXNNNNN" "XXXXNNMMNNNNNNMX";
static const char two_bytes_0f[] =
	"XMXXXXXXNNXNXNXX" "XXXXXXXXNXXXXXMN" "MXNXXXXXXXXXXXXX" "NNNNXXXXXXXXXXXX"
	"RRRRRRRRRRRRRRRR" "XXXXXXXXXXXXXXXX" "XXXXXXXXXXXXXXXX" "XXXXXXXXXXXXXXXX"
	"NNNNNNNNNNNNNNNN" "MMMMMMMMMMMMMMMM" "XXNNMMXXXXXMMMMR" "MMXMXXRRRXMMRRRR"
	"BBXMXXXMNNNNXNNN" "XXXXXXXXXXXXXXXX" "XXXXXXXXXXXXXXXX" "XXXXXXXXXXXXXXXX";

#define REX 0x40
#define REX_B 1
#define REX_R 4
#define REX_W 8

#define RSP 4

static bool keeps_sp(const uint8_t *opcode, uint8_t rex)
{
	bool two = *opcode == 0x0f;
	char writes = two ? two_bytes_0f[opcode[1]] : one_byte[*opcode];
	uint8_t modrm = opcode[1 + two];
	bool reg = (modrm >> 3 & 7) == RSP && !(rex & REX_R);
	bool rm = modrm >> 6 == 3 && (modrm & 7) == RSP && !(rex & REX_B);

	switch (writes) {
	case 'N':
		return true;
	case 'R':
		return !reg;
	case 'M':
		return !rm;
	case 'B':
		return !reg && !rm;
	}
	return false;
}

/* Add to RSP, or subtract from it, an immediate; 0 if it is something else. */
static int32_t adjusts_sp(const uint8_t *opcode, uint8_t rex)
{
	int32_t near;

	if ((rex & ~REX_R) != (REX | REX_W) ||
	    (opcode[1] != 0xc4 && opcode[1] != 0xec))	/* /0 and /5 of RSP */
		return 0;
	memcpy(&near, opcode + 2, sizeof(near));
	if (*opcode == 0x83)
		near = (int8_t)opcode[2];
	return opcode[1] == 0xc4 ? near : -near;
}

static bool knows_sp(const uint8_t *opcode, uint8_t rex, int32_t *delta)
{
	*delta = 0;
	switch (*opcode) {
	case 0x50 ... 0x57: case 0x68: case 0x6a: case 0x9c:
		*delta = -8;
		return true;
	case 0x58 ... 0x5f: case 0x9d:
		*delta = 8;
		return (*opcode & 7) != RSP || rex & REX_B;
	case 0x81: case 0x83:
		*delta = adjusts_sp(opcode, rex);
		return *delta || keeps_sp(opcode, rex);
	}
	return keeps_sp(opcode, rex);
}

/* mov %r64, (%rsp) */
static bool aims(const uint8_t *opcode, uint8_t rex)
{
	return (rex & ~REX_R) == (REX | REX_W) && opcode[0] == 0x89 &&
	       (opcode[1] & 0xc7) == 0x04 && opcode[2] == 0x24;
}

static bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
	case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
		return true;
	}
	return false;
}

static void branch(struct insn *insn, enum flow flow, const uint8_t *end, size_t size)
{
	int32_t near;

	memcpy(&near, end - sizeof(near), sizeof(near));
	insn->flow = flow;
	insn->target = behind(insn) + (size == 1 ? (int8_t)end[-1] : near);
}

static void ret(struct insn *insn, const uint8_t *immediate, uint16_t pops)
{
	uint16_t more = 0;

	if (immediate)
		memcpy(&more, immediate, sizeof(more));
	insn->flow = RET;
	insn->pops = pops + more;
}

static void two_bytes(struct insn *insn, uint8_t opcode, const uint8_t *end)
{
	if ((opcode & 0xf0) == 0x80)
		branch(insn, JUMP, end, 4);
	else if (opcode == 0x05 || opcode == 0x07 || opcode == 0x34 || opcode == 0x35)
		insn->flow = FAR;
}

static void group5(struct insn *insn, uint8_t modrm)
{
	switch (modrm >> 3 & 7) {
	case 2:
		insn->flow = CALL_INDIRECT;
		break;
	case 4: case 5:
		insn->flow = JUMP_INDIRECT;
		break;
	}
}

/*
 * Xen emulates a cpuid behind a ud2 and its name (XEN_CPUID, asm/xen/prefix.h): to
 * the guest they are one instruction.
 */
static bool is_xen_cpuid(const uint8_t *code)
{
	return !memcmp(code, "\x0f\x0bxen\x0f\xa2", XEN_CPUID_BYTES);
}

void decode(struct insn *insn, const uint8_t *code, size_t length)
{
	const uint8_t *at = code, *end = code + length;
	bool narrow = false;
	uint8_t rex = 0;

	insn->length = is_xen_cpuid(code) ? XEN_CPUID_BYTES : length;
	insn->flow = PLAIN;
	insn->target = 0;
	insn->pops = 0;
	insn->aims = false;
	while (at < end && is_prefix(*at))
		narrow |= *at++ == 0x66;
	if (at < end && (*at & 0xf0) == 0x40)
		rex = *at++;
	insn->sp_known = at < end && knows_sp(at, rex, &insn->sp_delta) &&
			 !(narrow && insn->sp_delta);
	if (at == end)
		return;
	switch (*at) {
	case 0x0f:
		two_bytes(insn, at[1], end);
		break;
	case 0x70 ... 0x7f: case 0xe0 ... 0xe3: case 0xeb:
		branch(insn, JUMP, end, 1);
		break;
	case 0xe9:
		branch(insn, JUMP, end, 4);
		break;
	case 0xe8:
		branch(insn, CALL, end, 4);
		break;
	case 0x89:
		insn->aims = aims(at, rex);
		break;
	case 0xc2: case 0xca:
		ret(insn, at + 1, *at == 0xca ? 8 : 0);
		break;
	case 0xc3: case 0xcb:
		ret(insn, NULL, *at == 0xcb ? 8 : 0);
		break;
	case 0xc9:
		insn->pops = 8;
		break;
	case 0xcf:
		insn->flow = IRET;
		break;
	case 0xff:
		group5(insn, at[1]);
		break;
	}
}
