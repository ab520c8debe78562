-- wrk: pauses between the requests of a connection, milliseconds: some burst, some think.
math.randomseed(1)
function delay()
  return math.random() < 0.9 and math.random(5, 25) or math.random(50, 400)
end
