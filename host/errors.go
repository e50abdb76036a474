package host

import "errors"

var (
	// ErrInvalid: an argument is wrong in itself.
	ErrInvalid = errors.New("invalid")

	// ErrNoIPv6: IPv6 is switched off in this kernel.
	ErrNoIPv6 = errors.New("no IPv6")

	// ErrNoDevice: there is no device of that name, or it is none of ip6d's ports.
	ErrNoDevice = errors.New("no such device")

	// ErrNoUnderlay: something needs the underlay, and there is none.
	ErrNoUnderlay = errors.New("no underlay")

	// ErrNotUnderlay: the device cannot be the underlay.
	ErrNotUnderlay = errors.New("device cannot be the underlay")

	// ErrStackTaken: a device is called ip6d0, and is not the one that ip6d makes.
	ErrStackTaken = errors.New("ip6d0 is taken")

	// ErrNoNamespace: there is no network namespace at that path.
	ErrNoNamespace = errors.New("no such network namespace")

	// ErrOwnNamespace: the namespace is the host's own, where a machine would be behind no port.
	ErrOwnNamespace = errors.New("the host's own network namespace")

	// ErrPortExists: a device of another machine, or of somebody else, is in the way.
	ErrPortExists = errors.New("device exists")

	// ErrNotPort: the device cannot be a port.
	ErrNotPort = errors.New("device cannot be a port")

	// ErrUnreachable: the underlay knows no way to another host.
	ErrUnreachable = errors.New("host is unreachable")
)
