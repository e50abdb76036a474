package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
)

// parts is into how many runs a measurement is divided. The fastest counts: the others were disturbed more.
const parts = 10

// Cost runs a program on the same frame so many times, 10 at least, and returns what it returned and how long it took for
// each, to 1 ns: more than a program that does nothing takes with the same harness. Run it in the network namespace whose
// device 1 the frame comes from; a redirect is not followed.
func Cost(program *ebpf.Program, frame []byte, repeat int) (verdict int32, cost time.Duration, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("measure a program: %w", err)
		}
	}()
	spec, err := LoadProgram()
	if err != nil {
		return 0, 0, err
	}
	headers := make([]uint64, spec.Variables[ProgramVarHeaders].Size()/8)
	if _, err := binary.Decode(frame, binary.NativeEndian, headers); err != nil {
		return 0, 0, fmt.Errorf("frame of %d bytes: %w", len(frame), err)
	}
	if err := spec.Variables[ProgramVarHeaders].Set(headers); err != nil {
		return 0, 0, err
	}
	var o ProgramObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, o.Close()) }()

	idle, busy := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range parts {
		_, took, err := o.run(o.Nothing, frame, repeat/parts)
		if err != nil {
			return 0, 0, err
		}
		idle = min(idle, took)
		if verdict, took, err = o.run(program, frame, repeat/parts); err != nil {
			return 0, 0, err
		}
		busy = min(busy, took)
	}
	return verdict, busy - idle, nil
}

func (o *ProgramObjects) run(callee *ebpf.Program, frame []byte, repeat int) (int32, time.Duration, error) {
	if err := o.Callee.Put(uint32(0), callee); err != nil {
		return 0, 0, err
	}
	verdict, cost, err := o.Restore.Benchmark(frame, repeat, nil)
	return int32(verdict), cost, err
}
