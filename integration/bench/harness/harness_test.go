package harness

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"ip6d/integration/lab/labtest"
)

// spoil returns 7 for a packet that begins with a zero, which it then makes a one.
func spoil(t *testing.T) *ebpf.Program {
	const data, end = 76, 80 // in struct __sk_buff
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2),
			asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, end, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, 1),
			asm.JGT.Reg(asm.R4, asm.R3, "exit"),
			asm.LoadMem(asm.R5, asm.R2, 0, asm.Byte),
			asm.JNE.Imm(asm.R5, 0, "exit"),
			asm.StoreImm(asm.R2, 0, 1, asm.Byte),
			asm.Mov.Imm(asm.R0, 7),
			asm.Return().WithSymbol("exit"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestThePacketIsRestoredEachTime(t *testing.T) {
	labtest.RequireRoot(t)
	verdict, _, err := Cost(spoil(t), make([]byte, 64), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if verdict != 7 {
		t.Errorf("the last run returned %d, want 7: it found the packet as an earlier one had left it", verdict)
	}
}

func TestAFrameWithoutHeadersIsRefused(t *testing.T) {
	labtest.RequireRoot(t)
	if _, _, err := Cost(spoil(t), make([]byte, 20), 10); err == nil {
		t.Error("a frame of 20 bytes was taken")
	}
}
