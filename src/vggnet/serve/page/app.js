<!doctype html><title>vggnet</title>
