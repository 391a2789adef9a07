"""Programs to read in order, each runnable: `demo` is the main job, `bench` the speed."""
