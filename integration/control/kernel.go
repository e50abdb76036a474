package main

import (
	"maps"
	"slices"
	"sync"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// kernel is a memory with the content of the kernel's maps, for a thousand hosts on one computer.
type kernel struct {
	moved   func() // called when an entry of `moved` is written
	flipped func() // called before an entry is flipped

	mu       sync.Mutex // guards all below
	machines map[addr.ID]nat.Machine
	entries  map[addr.ID]nat.Moved
	blocks   map[addr.Block]nat.Block
	witness  nat.Witness
}

var _ hwmap.Datapath = (*kernel)(nil)

func newKernel(moved func()) *kernel {
	return &kernel{moved: moved, machines: make(map[addr.ID]nat.Machine), entries: make(map[addr.ID]nat.Moved), blocks: make(map[addr.Block]nat.Block)}
}

func (k *kernel) AttachPort(int, addr.Stable) error { return nil }
func (k *kernel) DetachPort(int) error              { return nil }

func (k *kernel) AwaitPacket(int, bool) error { return nil }

func (k *kernel) PutMachine(m nat.Machine) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.machines[m.ID] = m
	return nil
}

func (k *kernel) Machine(id addr.ID) (nat.Machine, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, ok := k.machines[id]
	return m, ok, nil
}

func (k *kernel) Machines() ([]nat.Machine, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.machines)), nil
}

func (k *kernel) DeleteMachine(id addr.ID, _ uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.machines, id)
	return nil
}

func (k *kernel) Flip(id addr.ID, to addr.Host, epoch uint64) error {
	if k.flipped != nil {
		k.flipped()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	m, ok := k.machines[id]
	if !ok {
		return nat.ErrNotFound
	}
	m.State, m.Host, m.Epoch = nat.Away, to, epoch
	k.machines[id] = m
	return nil
}

func (k *kernel) PutMoved(entries ...nat.Moved) error {
	k.mu.Lock()
	for _, m := range entries {
		k.entries[m.ID] = m
	}
	k.mu.Unlock()
	k.moved()
	return nil
}

func (k *kernel) DeleteMoved(id addr.ID, _ uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.entries, id)
	return nil
}

func (k *kernel) MovedEntries() ([]nat.Moved, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.entries)), nil
}

func (k *kernel) PutBlock(b nat.Block) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blocks[b.Block] = b
	return nil
}

func (k *kernel) DeleteBlock(_ addr.Cell, b addr.Block) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.blocks, b)
	return nil
}

func (k *kernel) Blocks() ([]nat.Block, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.blocks)), nil
}

func (k *kernel) Witness() (nat.Witness, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.witness, nil
}

func (k *kernel) PutWitness(w nat.Witness) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.witness = w
	return nil
}

func (k *kernel) PutDead(addr.Host) error         { return nil }
func (k *kernel) DeleteDead(addr.Host) error      { return nil }
func (k *kernel) DeadHosts() ([]addr.Host, error) { return nil, nil }
func (k *kernel) SetFenced(bool) error            { return nil }
func (k *kernel) Fenced() (bool, error)           { return false, nil }
