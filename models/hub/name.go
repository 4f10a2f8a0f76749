package hub

import (
	"fmt"
	"regexp"
	"strings"
)

const mainRevision = "main"

var (
	namePart = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$`)
	revision = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}$`)
	commit   = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// ParseName parses org/name[@revision]; the default revision is "main". The error wraps ErrNotHub for any other name.
func ParseName(name string) (id, rev string, err error) {
	id, rev, pinned := strings.Cut(name, "@")
	if !pinned {
		rev = mainRevision
	}
	org, repo, ok := strings.Cut(id, "/")
	if !ok || !goodPart(org) || !goodPart(repo) {
		return "", "", fmt.Errorf("%w: %q is not a folder, and not of the form org/name[@revision]", ErrNotHub, name)
	}
	if !revision.MatchString(rev) || strings.Contains(rev, "..") || strings.Contains(rev, "//") {
		return "", "", fmt.Errorf("%w: %q has an invalid revision %q", ErrNotHub, name, rev)
	}
	return id, rev, nil
}

func goodPart(part string) bool {
	return namePart.MatchString(part) && !strings.Contains(part, "--") && !strings.Contains(part, "..")
}
