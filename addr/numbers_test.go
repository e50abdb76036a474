package addr

import (
	"errors"
	"strings"
	"testing"
)

func TestNumbersAreDecimalOrHexadecimal(t *testing.T) {
	for _, c := range []struct {
		text string
		want uint64
	}{
		{"1", 1}, {"0x1", 1}, {"0XfF", 255}, {"65534", 65534}, {"010", 10},
	} {
		for field, parse := range numberParsers {
			if got, err := parse(c.text); err != nil || got != c.want {
				t.Errorf("%s %q is %d, %v; want %d", field, c.text, got, err, c.want)
			}
		}
	}
}

func TestNumbersOutOfRangeAreRefused(t *testing.T) {
	for _, c := range []struct {
		field, text string
		valid       bool
	}{
		{"host", "0", false}, {"host", "4294967295", true}, {"host", "4294967296", false},
		{"network", "0x0", false}, {"network", "0xffffffff", true}, {"network", "0x100000000", false},
		{"cell", "0", false}, {"cell", "65534", true}, {"cell", "65535", false}, {"cell", "65537", false},
		{"machine", "0", true}, {"machine", "4294967295", true}, {"machine", "4294967296", false},
	} {
		_, err := numberParsers[c.field](c.text)
		if (err == nil) != c.valid {
			t.Errorf("%s %q: error is %v, want valid %t", c.field, c.text, err, c.valid)
		}
	}
}

func TestTextThatIsNoNumberIsRefusedByName(t *testing.T) {
	for _, text := range []string{"", " 1", "-1", "+1", "1_000", "0b1", "0o7", "0x", "0x-1", "1.0", "one", strings.Repeat("1", 1<<16)} {
		for field, parse := range numberParsers {
			_, err := parse(text)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "invalid "+field+" ") || len(err.Error()) > 500 {
				t.Errorf("%s %.20q: error is %.200v, want a short ErrInvalid that names the %s", field, text, err, field)
			}
		}
	}
}

var numberParsers = map[string]func(string) (uint64, error){
	"host":    func(s string) (uint64, error) { v, err := ParseHost(s); return uint64(v), err },
	"network": func(s string) (uint64, error) { v, err := ParseNetwork(s); return uint64(v), err },
	"cell":    func(s string) (uint64, error) { v, err := ParseCell(s); return uint64(v), err },
	"machine": func(s string) (uint64, error) { v, err := ParseMachine(s); return uint64(v), err },
}

func TestCellCheckAcceptsWhatAnAddressCanHold(t *testing.T) {
	for cell, valid := range map[Cell]bool{0: false, 1: true, MaxCell: true, 0xffff: false} {
		if err := cell.Check(); (err == nil) != valid || (err != nil && !errors.Is(err, ErrInvalid)) {
			t.Errorf("Cell(%d).Check() = %v, want valid %t", cell, err, valid)
		}
	}
}

func TestBlocksAre256ConsecutiveMachines(t *testing.T) {
	for _, c := range []struct {
		machine Machine
		block   Block
	}{
		{0, 0}, {255, 0}, {256, 1}, {511, 1}, {0xffffff00, MaxBlock}, {0xffffffff, MaxBlock},
	} {
		if got := c.machine.Block(); got != c.block {
			t.Errorf("machine %d is of block %d, want %d", c.machine, got, c.block)
		}
		if first := c.block.First(); first > c.machine || c.machine-first >= BlockSize {
			t.Errorf("block %d starts at machine %d, which leaves machine %d outside", c.block, first, c.machine)
		}
	}
	if s := (ID{Cell: 3, Machine: 257}).String(); s != "3/257" {
		t.Errorf("ID is written %s, want 3/257", s)
	}
}
