package addr

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Host is the 32-bit hardware id of a host, unique in the fleet. 0 is never valid.
type Host uint32

// Network is a 32-bit tenant network id. 0 is the infrastructure network, which holds hosts, not machines.
type Network uint32

// Cell is the id of the region whose store issued an address, 1 to 0xfffe.
type Cell uint16

// Machine is the number of a machine within its cell.
type Machine uint32

// Block is 256 consecutive machine numbers of a cell, leased whole by one host: 0 to 0xffffff.
type Block uint32

// BlockSize is the number of machines in a block.
const BlockSize = 256

// ID names a machine in the whole fleet. The network is no part of it: in an address the network is
// only ever checked.
type ID struct {
	Cell    Cell
	Machine Machine
}

// Block returns the block that m was issued from.
func (m Machine) Block() Block { return Block(m / BlockSize) }

// First returns the lowest machine number of the block.
func (b Block) First() Machine { return Machine(b) * BlockSize }

// String formats the id as CELL/MACHINE, in decimal.
func (id ID) String() string { return fmt.Sprintf("%d/%d", id.Cell, id.Machine) }

// MaxBlock is the highest block number of a cell.
const MaxBlock Block = 0xffffff

// MaxCell is the highest valid cell; 0xffff is indistinguishable from 0 in one's-complement arithmetic.
const MaxCell Cell = 0xfffe

// Check returns an error that wraps ErrInvalid when the cell is 0 or 0xffff.
func (c Cell) Check() error {
	if c == 0 || c > MaxCell {
		return fmt.Errorf("%w cell %d: must be 1 to %d", ErrInvalid, c, MaxCell)
	}
	return nil
}

// ParseHost reads a host id, 1 to 4294967295, in decimal or in hexadecimal after 0x. The error wraps ErrInvalid.
func ParseHost(s string) (Host, error) {
	v, err := parseNumber("host", s, 1, math.MaxUint32)
	return Host(v), err
}

// ParseNetwork reads the network id of a machine, 1 to 4294967295, in decimal or in hexadecimal after 0x. The error
// wraps ErrInvalid.
func ParseNetwork(s string) (Network, error) {
	v, err := parseNumber("network", s, 1, math.MaxUint32)
	return Network(v), err
}

// ParseCell reads a cell, 1 to 65534, in decimal or in hexadecimal after 0x. The error wraps ErrInvalid.
func ParseCell(s string) (Cell, error) {
	v, err := parseNumber("cell", s, 1, uint32(MaxCell))
	return Cell(v), err
}

// ParseMachine reads a machine number, 0 to 4294967295, in decimal or in hexadecimal after 0x. The error wraps
// ErrInvalid.
func ParseMachine(s string) (Machine, error) {
	v, err := parseNumber("machine", s, 0, math.MaxUint32)
	return Machine(v), err
}

// parseNumber takes neither octal nor binary: a leading zero, as in 010, would mean 8 to one reader and 10 to another.
// It is decimal here.
func parseNumber(field, s string, low, high uint32) (uint32, error) {
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		digits, base = hex, 16
	}
	v, err := strconv.ParseUint(digits, base, 32)
	if err != nil || uint32(v) < low || uint32(v) > high {
		return 0, fmt.Errorf("%w %s %s: must be a number from %d to %d", ErrInvalid, field, quote(s), low, high)
	}
	return uint32(v), nil
}
