package nat

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"ip6d/audit"
	"ip6d/bpf"
)

// onDevice is what there is on a device in the name of one program.
type onDevice struct {
	own    ebpf.ProgramID // by this pin directory's datapath; 0: nothing
	others []ebpf.ProgramID
}

func (d *Datapath) lookAtPrograms(w Wanted) (all []audit.Difference, err error) {
	programs, wanted := d.programs(), make(map[Attachment]bool)
	for _, a := range d.wanted(w) {
		wanted[a] = true
		p := programs[a.Program]
		loaded, err := programID(p.Program)
		if err != nil {
			return all, fmt.Errorf("look at program %s: %w", a.Program, err)
		}
		now, err := d.hooks.inspect(a, p)
		if err != nil {
			return all, fmt.Errorf("look at %s of device %s: %w", a.Program, w.name(a.Ifindex), err)
		}
		object, want := w.program(a), fmt.Sprintf("id %d", loaded)
		switch {
		case now.own == 0:
			all = append(all, audit.New(audit.ProgramMissing, object, "loaded", want, "attached", audit.None))
		case now.own != loaded:
			all = append(all, audit.New(audit.ProgramOld, object, "loaded", want, "attached", fmt.Sprintf("id %d", now.own)))
		}
		if len(now.others) > 0 {
			all = append(all, audit.New(audit.ProgramTwice, object, "loaded", want, "attached by others", fmt.Sprintf("ids %v", now.others)))
		}
	}
	have, err := d.Attachments()
	for _, a := range have {
		if !wanted[a] {
			all = append(all, audit.New(audit.ProgramStray, w.program(a), "wanted", audit.None, "attached", "yes"))
		}
	}
	return all, err
}

func (w Wanted) program(a Attachment) audit.Object {
	return audit.Object{Type: audit.ProgramObject, ID: a.Program + "@" + w.name(a.Ifindex)}
}

func (a Audit) mendProgram(w Wanted, d audit.Difference) error {
	have, err := a.Attachments()
	if err != nil {
		return err
	}
	wanted := a.wanted(w)
	for _, at := range slices.Concat(wanted, have) {
		if w.program(at) != d.Object {
			continue
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if slices.Contains(wanted, at) {
			return a.attach(at.Program, at.Ifindex)
		}
		return a.detach(at.Program, at.Ifindex)
	}
	return audit.ErrChanged
}

// identities reads `ports` as it is.
func (d *Datapath) identities() (map[int]bpf.DatapathPort, error) {
	all := make(map[int]bpf.DatapathPort)
	err := list(d.objects.Ports, bpf.DatapathMapPorts, func(_ uint32, v bpf.DatapathPort) {
		if v.Ifindex != 0 {
			all[int(v.Ifindex)] = v
		}
	})
	return all, err
}

func (d *Datapath) lookAtIdentities(w Wanted) (all []audit.Difference, err error) {
	have, err := d.identities()
	if err != nil {
		return nil, err
	}
	for ifindex, s := range w.Ports {
		v, ok := have[ifindex]
		if ok && v.Stable == portValue(ifindex, s).Stable {
			continue
		}
		says := audit.None
		if ok {
			says = joined(v.Stable.High, v.Stable.Low).String()
		}
		all = append(all, audit.New(audit.IdentityDiffers, audit.Device(w.name(ifindex)), "truth", s.String(), "kernel's ports", says))
	}
	for ifindex, v := range have {
		if _, wanted := w.Ports[ifindex]; !wanted {
			all = append(all, audit.New(audit.IdentityStray, audit.Device(w.name(ifindex)), "truth", audit.None, "kernel's ports", joined(v.Stable.High, v.Stable.Low).String()))
		}
	}
	return all, nil
}

// removeIdentities removes those of `ports`, also where this process did not know of them.
func (d *Datapath) removeIdentities(which func(ifindex int) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	places := make(map[uint32]int)
	err := list(d.objects.Ports, bpf.DatapathMapPorts, func(place uint32, v bpf.DatapathPort) {
		if v.Ifindex != 0 && which(int(v.Ifindex)) {
			places[place] = int(v.Ifindex)
		}
	})
	for place, ifindex := range places {
		err = errors.Join(err, write(d.objects.Ports, bpf.DatapathMapPorts, place, bpf.DatapathPort{}))
		if d.ports[ifindex] == place {
			delete(d.ports, ifindex)
		}
	}
	return err
}
