package nat

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ip6d/addr"
	"ip6d/audit"
)

// Wanted is what should be attached, as those know who had it attached.
type Wanted struct {
	Ports     map[int]addr.Stable // by ifindex
	Underlay  int                 // 0: there is none
	L3        bool                // the underlay has no link layer
	StackPeer int                 // of ip6d0; 0: not made
	Names     map[int]string      // of devices, where they are known
}

func (w Wanted) name(ifindex int) string {
	if name, ok := w.Names[ifindex]; ok {
		return name
	}
	return fmt.Sprintf("#%d", ifindex)
}

// wanted returns what should be attached.
func (d *Datapath) wanted(w Wanted) []Attachment {
	var all []Attachment
	for ifindex := range w.Ports {
		all = append(all, Attachment{fromMachine, ifindex})
	}
	if w.Underlay != 0 && w.L3 {
		all = append(all, Attachment{fromUnderlayL3, w.Underlay}, Attachment{toUnderlayL3, w.Underlay})
	} else if w.Underlay != 0 {
		all = append(all, Attachment{fromUnderlay, w.Underlay}, Attachment{toUnderlay, w.Underlay})
	}
	if w.StackPeer != 0 {
		all = append(all, Attachment{fromStack, w.StackPeer})
	}
	if d.stack != 0 {
		all = append(all, Attachment{fromElsewhere, d.stack})
	}
	return all
}

// Audit is the audit.Source of a Datapath: what is pinned, attached and counted, and what the ports may send as.
type Audit struct {
	*Datapath
	Want func(context.Context) (Wanted, error)
}

var _ audit.Source = Audit{}

// Look implements audit.Source.
func (a Audit) Look(ctx context.Context, only []audit.Object) (all []audit.Difference, err error) {
	asked := func(types ...audit.ObjectType) bool {
		return only == nil || slices.ContainsFunc(only, func(o audit.Object) bool { return slices.Contains(types, o.Type) })
	}
	add := func(more []audit.Difference, part error) { all, err = append(all, more...), errors.Join(err, part) }
	if asked(audit.PinObject) {
		add(a.lookAtPins())
	}
	if asked(audit.ProgramObject, audit.DeviceObject) {
		w, wantErr := a.Want(ctx)
		if wantErr != nil {
			return all, errors.Join(err, wantErr)
		}
		add(a.lookAtPrograms(w))
		add(a.lookAtIdentities(w))
	}
	if asked(audit.BlockObject) {
		add(a.lookAtCounts())
	}
	return all, err
}

// Mend implements audit.Source.
func (a Audit) Mend(ctx context.Context, d audit.Difference) error {
	w, err := a.Want(ctx)
	if err != nil {
		return err
	}
	switch d.Kind {
	case audit.PinMissing:
		return a.pin(d.Object.ID)
	case audit.ProgramMissing, audit.ProgramOld, audit.ProgramStray:
		return a.mendProgram(w, d)
	case audit.IdentityDiffers:
		for ifindex, s := range w.Ports {
			if w.name(ifindex) == d.Object.ID {
				return a.AttachPort(ifindex, s)
			}
		}
		return audit.ErrChanged
	case audit.IdentityStray:
		return a.removeIdentities(func(ifindex int) bool {
			_, wanted := w.Ports[ifindex]
			return !wanted && w.name(ifindex) == d.Object.ID
		})
	case audit.BlockCountDiffers:
		block, ok := d.Object.Number(audit.BlockObject)
		if !ok {
			return audit.ErrChanged
		}
		return a.Recount(addr.Block(block))
	}
	return audit.ErrOperator
}
