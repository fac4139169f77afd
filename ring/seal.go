package ring

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
)

// sealMark begins the last line of a sealed text. It is a comment to who reads properties.
const sealMark = "#crc32c="

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrSeal: a text is not what was sealed.
var ErrSeal = errors.New("damaged: its content does not have its CRC-32C")

// Seal adds a line with the CRC-32C of a small text file of whole lines, for Unseal to check.
func Seal(text []byte) []byte {
	return fmt.Appendf(text[:len(text):len(text)], "%s%08x\n", sealMark, crc32.Checksum(text, castagnoli))
}

// Unseal is Seal backwards. A text without a seal, as others write it, is returned as it is; sealed
// says which.
func Unseal(b []byte) (text []byte, sealed bool, err error) {
	at := bytes.LastIndex(b, []byte(sealMark))
	if at < 0 || at > 0 && b[at-1] != '\n' {
		return b, false, nil
	}
	if !bytes.Equal(b, Seal(b[:at])) {
		return nil, true, ErrSeal
	}
	return b[:at], true, nil
}
