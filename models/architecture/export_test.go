package architecture

// Families are the names in the table, those of wrappers among them.
func Families() []string {
	var names []string
	for _, f := range families() {
		names = append(names, f.name)
		if f.wrapper != nil {
			names = append(names, f.wrapper.name)
		}
	}
	return names
}
