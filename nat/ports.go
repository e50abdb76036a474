package nat

import (
	"fmt"

	"ip6d/addr"
	"ip6d/bpf"
)

// MaxMachines is the largest Sizes.Machines: half the places of `ports`, so that each device finds one near its number.
const MaxMachines = portPlaces / 2

// The programs are told of both.
const (
	portPlaces = 1 << 16 // of `ports`
	portProbes = 8       // how many places a device may be at
)

// readPorts reads at which place of `ports` each device is.
func (d *Datapath) readPorts() error {
	return list(d.objects.Ports, bpf.DatapathMapPorts, func(place uint32, v bpf.DatapathPort) {
		if v.Ifindex != 0 {
			d.ports[int(v.Ifindex)] = place
		}
	})
}

// port reads the identity of a device, and whether it has one. The caller holds mu.
func (d *Datapath) port(ifindex int) (v bpf.DatapathPort, ok bool, err error) {
	place, ok := d.ports[ifindex]
	if !ok {
		return v, false, nil
	}
	return lookup[bpf.DatapathPort](d.objects.Ports, place)
}

// putPort writes an identity to the device's place, or to the first that is free. Errors: ErrFull. The caller holds mu.
func (d *Datapath) putPort(ifindex int, v bpf.DatapathPort) error {
	place, ok := d.ports[ifindex]
	if !ok {
		var err error
		if place, err = d.freePlace(ifindex); err != nil {
			return err
		}
	}
	if err := write(d.objects.Ports, bpf.DatapathMapPorts, place, v); err != nil {
		return err
	}
	d.ports[ifindex] = place
	return nil
}

func (d *Datapath) freePlace(ifindex int) (uint32, error) {
	for i := range portProbes {
		place := uint32((ifindex + i) % portPlaces)
		v, _, err := lookup[bpf.DatapathPort](d.objects.Ports, place)
		if err != nil {
			return 0, fmt.Errorf("read map %s: %w", bpf.DatapathMapPorts, err)
		}
		if v.Ifindex == 0 {
			return place, nil
		}
	}
	return 0, fmt.Errorf("%w: %s has no place near number %d for its device; make the device anew, with another number",
		ErrFull, bpf.DatapathMapPorts, ifindex)
}

// removePort takes a device's identity away. That it has none is no error. The caller holds mu.
func (d *Datapath) removePort(ifindex int) error {
	place, ok := d.ports[ifindex]
	if !ok {
		return nil
	}
	if err := write(d.objects.Ports, bpf.DatapathMapPorts, place, bpf.DatapathPort{}); err != nil {
		return err
	}
	delete(d.ports, ifindex)
	return nil
}

func portValue(ifindex int, s addr.Stable) (v bpf.DatapathPort) {
	v.Stable.High, v.Stable.Low = halves(s.Addr())
	v.Ifindex = uint32(ifindex)
	return v
}
