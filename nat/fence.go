package nat

import (
	"fmt"
	"slices"

	"ip6d/addr"
	"ip6d/bpf"
)

// SetFenced stops everything at once, by one map write, and has it go on: a host that was declared dead carries nothing,
// since other hosts may have its machines by now. All entries stay. It outlives the process.
func (d *Datapath) SetFenced(fenced bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeFence(fenced)
}

// Fenced reports whether everything is stopped.
func (d *Datapath) Fenced() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readFenced()
}

// PutDead has whatever another host sends refused. Errors: ErrInvalid, ErrFull.
func (d *Datapath) PutDead(h addr.Host) error {
	if err := d.checkOther(h); err != nil {
		return fmt.Errorf("dead host: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.dead[h]
	// Counted first: where there is none it would not be looked for.
	d.dead[h] = struct{}{}
	err := d.countDead()
	if err == nil {
		err = write(d.objects.Dead, bpf.DatapathMapDead, uint32(h), uint32(1))
	}
	if err != nil && !known {
		delete(d.dead, h) // one too many in the count costs a needless look, and the next change counts anew
	}
	if err != nil {
		return fmt.Errorf("dead host %d: %w", h, err)
	}
	return nil
}

// DeleteDead undoes PutDead. That the host was not dead is no error.
func (d *Datapath) DeleteDead(h addr.Host) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := remove(d.objects.Dead, bpf.DatapathMapDead, uint32(h)); err != nil {
		return fmt.Errorf("dead host %d: %w", h, err)
	}
	if _, known := d.dead[h]; !known {
		return nil
	}
	delete(d.dead, h)
	return d.countDead()
}

// DeadHosts lists the hosts whose packets are refused, by id.
func (d *Datapath) DeadHosts() (all []addr.Host, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = list(d.objects.Dead, bpf.DatapathMapDead, func(h, _ uint32) { all = append(all, addr.Host(h)) })
	slices.Sort(all)
	return all, err
}

// readDead reads the pinned entries, and counts them: a crash between two writes may have left the count wrong.
func (d *Datapath) readDead() error {
	err := list(d.objects.Dead, bpf.DatapathMapDead, func(h, _ uint32) { d.dead[addr.Host(h)] = struct{}{} })
	if err != nil {
		return err
	}
	return d.countDead()
}

func (d *Datapath) countDead() error {
	fenced, err := d.readFenced()
	if err != nil {
		return err
	}
	return d.writeFence(fenced)
}

func (d *Datapath) readFenced() (bool, error) {
	v, _, err := lookup[bpf.DatapathFence](d.objects.Fence, uint32(0))
	if err != nil {
		return false, fmt.Errorf("read the fence: %w", err)
	}
	return v.Closed != 0, nil
}

func (d *Datapath) writeFence(fenced bool) error {
	v := bpf.DatapathFence{Dead: uint32(len(d.dead))}
	if fenced {
		v.Closed = 1
	}
	return write(d.objects.Fence, bpf.DatapathMapFence, uint32(0), v)
}
