package dataset

// The words of the demo. Nouns differ in length, so that lists have a longest word.
var (
	nouns = []string{
		"ant", "apple", "arm", "axe", "bag", "ball", "banana", "barrel", "basket", "bear", "bed", "bell", "bench",
		"bird", "blanket", "boat", "book", "bottle", "box", "bread", "bridge", "broom", "brush", "bucket", "butter",
		"button", "cake", "camera", "candle", "car", "carpet", "castle", "cat", "chair", "cheese", "cherry", "clock",
		"cloud", "coat", "coin", "comb", "cow", "cup", "desk", "dog", "door", "drum", "duck", "egg", "fan", "feather",
		"fence", "fish", "flag", "flower", "fork", "fox", "garden", "gate", "glass", "glove", "goat", "hammer", "hat",
		"honey", "horse", "house", "island", "jacket", "jar", "key", "kettle", "kite", "knife", "ladder", "lake",
		"lamp", "leaf", "lemon", "letter", "map", "milk", "mirror", "moon", "mountain", "mouse", "needle", "nest",
		"onion", "orange", "pan", "paper", "pear", "pencil", "piano", "pillow", "plate", "pot", "rain", "ring", "river",
		"road", "rope", "rose", "salt", "ship", "shoe", "sock", "spoon", "tree",
	}
	names = []string{
		"Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Greta", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Nina", "Oscar",
		"Paul", "Rosa", "Sam", "Tom", "Vera",
	}
	topics = []string{
		"meeting", "party", "exam", "concert", "lesson", "dinner", "race", "visit", "trip", "show",
	}
	days = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
)

// Sentences of spoiled answers.
var (
	rambling = []string{
		"I hope this helps.", "By the way, it is warm today.", "There is more to say here.", "Some may not agree.",
		"But that is one way to see it.", "I like such questions.",
	}
	evasive = []string{
		"I am not sure.", "That is hard to say.", "Please ask me later.", "It depends on many things.",
	}
)
