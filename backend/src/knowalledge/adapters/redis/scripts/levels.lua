-- Every window as it stands. Returns per window: used, held, newest bucket.
open()
close()
return levels({})
