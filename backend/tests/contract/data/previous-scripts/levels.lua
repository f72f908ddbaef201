-- Every window as it stands. Returns per window: used, held, limit.
open()
close()
return levels({})
