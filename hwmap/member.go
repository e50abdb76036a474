package hwmap

import "fmt"

// readMember reads this host's own record from e. Errors: ErrUnavailable where it is no member of the fleet, ErrClaimed.
func (m *Map) readMember(e Entry) (Host, error) {
	h, err := optional[Host](e)
	switch {
	case err != nil:
		return Host{}, err
	case h == nil:
		return Host{}, fmt.Errorf("%w for writing: %w", ErrUnavailable, errUnlisted)
	case h.Identity != m.Self.Identity:
		return Host{}, fmt.Errorf("%w: id %d belongs to %q with identity %q", ErrClaimed, m.Self.ID, h.Name, h.Identity)
	}
	return *h, nil
}

// mayOwn is readMember for what makes a block or a machine this host's own in the store: that is conditional on e, so that it and
// the host's removal, or its being declared dead, cannot both win. Errors: as readMember; ErrState.
func (m *Map) mayOwn(e Entry) (Host, error) {
	h, err := m.readMember(e)
	if err == nil && (h.State == Removing || h.State == Dead) {
		err = fmt.Errorf("%w: this host is %s", ErrState, h.State)
	}
	return h, err
}
