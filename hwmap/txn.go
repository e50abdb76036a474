package hwmap

import "fmt"

// MaxKeySize is the longest key a Store takes, in bytes.
const MaxKeySize = 1024

// Check returns an error that wraps ErrUsage when t could not be committed whatever the Store holds: an empty or
// too long key, or a key that is written twice. Every Store refuses such a transaction before it sends or writes anything.
func (t Txn) Check() error {
	for _, c := range t.If {
		if err := c.Key.check(); err != nil {
			return err
		}
	}
	written := make(map[Key]bool, len(t.Then))
	for _, w := range t.Then {
		if err := w.Key.check(); err != nil {
			return err
		}
		if written[w.Key] {
			return fmt.Errorf("%w: key %q is written twice in one transaction", ErrUsage, w.Key)
		}
		written[w.Key] = true
	}
	return nil
}

func (k Key) check() error {
	switch {
	case k == "":
		return fmt.Errorf("%w: the key is empty", ErrUsage)
	case len(k) > MaxKeySize:
		return fmt.Errorf("%w: key %.32q... has %d bytes, must have at most %d", ErrUsage, k, len(k), MaxKeySize)
	}
	return nil
}
